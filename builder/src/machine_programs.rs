//! The static programs that a machine starts with, for its processor: inside farrow, or in a folder that is named.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use images::architecture::Architecture;

use crate::diagnostic::{Diagnostic, Result};
use crate::embedded;
use crate::session::Session;

/// File names in a folder of programs.
const BOOTSTRAP: &str = "farrow-bootstrap";
const INIT: &str = "farrow-init";
/// The largest program that is read, in bytes; the real ones have less than 4 MiB.
const LIMIT: u64 = 64 << 20;

/// The programs for one processor.
#[derive(Debug, Clone)]
pub struct MachinePrograms {
    /// `farrow-bootstrap`.
    pub bootstrap: Cow<'static, [u8]>,
    /// `farrow-init`, the first process of the initrd.
    pub init: Cow<'static, [u8]>,
}

impl MachinePrograms {
    /// The ones of the folder that `--bootstrap-dir` or the environment names, else those inside farrow.
    pub fn of(session: &Session, architecture: Architecture) -> Result<Self> {
        let variable = variable(architecture);
        let named = std::env::var_os(&variable).filter(|value| !value.is_empty());
        let folder = session.options.bootstrap_dir.clone();
        if let Some(folder) = folder.or_else(|| named.map(PathBuf::from)) {
            return Self::read(&folder, architecture);
        }
        let found = embedded::programs(architecture).map(|(bootstrap, init)| Self {
            bootstrap: bootstrap.into(),
            init: init.into(),
        });
        found.ok_or_else(|| {
            let name = architecture.debian();
            Diagnostic::failed(
                "FR-BOOTSTRAP-MISSING",
                format!("this farrow carries no {BOOTSTRAP} and {INIT} for {name}"),
            )
            .with_hint(format!(
                "make them with bootstrap/{name}/build of the sources and name their folder with --bootstrap-dir or {variable}"
            ))
        })
    }

    fn read(folder: &Path, architecture: Architecture) -> Result<Self> {
        let program = |name: &str| -> Result<Cow<'static, [u8]>> {
            let path = folder.join(name);
            let io = |e| Diagnostic::io("read", &path, e);
            let wrong = |reason: String| {
                Diagnostic::failed(
                    "FR-BOOTSTRAP-PROGRAM",
                    format!("{} is no program for the image: {reason}", path.display()),
                )
                .with_hint(format!(
                    "bootstrap/{}/build of the sources makes static ones",
                    architecture.debian()
                ))
            };
            if std::fs::metadata(&path).map_err(io)?.len() > LIMIT {
                return Err(wrong(format!("it is larger than {} MiB", LIMIT >> 20)));
            }
            let bytes = std::fs::read(&path).map_err(io)?;
            architecture.check_static_program(&bytes).map_err(wrong)?;
            Ok(bytes.into())
        };
        Ok(Self {
            bootstrap: program(BOOTSTRAP)?,
            init: program(INIT)?,
        })
    }
}

/// The environment variable that names the folder.
fn variable(architecture: Architecture) -> String {
    format!("FARROW_BOOTSTRAP_{}", architecture.debian().to_uppercase())
}
