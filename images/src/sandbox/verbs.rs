//! What can be asked of a worker in the mapped namespace, by name.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::root;

/// Reports units done and their total.
pub(crate) type Report<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Runs the verb `name`.
pub(super) fn run(name: &str, input: Value, report: Report) -> Result<Value> {
    match name {
        "prepare-root" => with(input, |input| root::prepare(input, &|done| report(done, 0))),
        "complete-root" => with(input, root::complete),
        "finish-root" => with(input, root::finish),
        "seal-layer" => with(input, root::seal),
        "merge-layers" => with(input, root::merge),
        "changes-of-layer" => with(input, root::changed),
        "changes-of-tree" => with(input, root::changes),
        "remove-tree" => with(input, |path: PathBuf| remove_tree(&path)),
        _ => Err(Error::sandbox(format!("run the worker {name}"))(
            "there is none of that name",
        )),
    }
}

fn with<I: DeserializeOwned, O: Serialize>(
    input: Value,
    work: impl FnOnce(I) -> Result<O>,
) -> Result<Value> {
    let input =
        serde_json::from_value(input).map_err(Error::sandbox("decode the input of a worker"))?;
    serde_json::to_value(work(input)?).map_err(Error::sandbox("encode the result of a worker"))
}

/// Removes a tree, also through folders that their own mode forbids to enter.
pub(crate) fn remove_tree(path: &std::path::Path) -> Result<()> {
    std::fs::remove_dir_all(path).map_err(Error::io("remove", path))
}
