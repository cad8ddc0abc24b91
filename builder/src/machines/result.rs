//! What `--json` says of machines.

use images::qemu_fleet::Guest;
use serde_json::{Value, json};

use super::Planned;
use super::node::Node;

/// One of `nodes` of the JSON result.
pub(super) fn node_json(running: &Node, planned: &Planned) -> Value {
    let document = running
        .latest()
        .map(|status| status.document.clone())
        .unwrap_or_default();
    json!({
        "name": planned.name,
        "role": document["node"]["role"],
        "address": planned.address,
        "state": document["state"],
        "services": document["services"],
        "plan_digest": document["plan_digest"],
        "image": document["image"],
        "uptime_seconds": document["uptime_seconds"],
        "checks": checks_json(&document, &planned.checks),
        "endpoints": endpoints(running, planned),
    })
}

/// Each check's result with its command.
fn checks_json(document: &Value, commands: &[String]) -> Vec<Value> {
    let results = document["checks"].as_array().cloned().unwrap_or_default();
    results
        .into_iter()
        .zip(commands)
        .map(|(mut result, command)| {
            result["command"] = json!(command);
            result
        })
        .collect()
}

fn endpoints(running: &Node, planned: &Planned) -> Vec<Value> {
    planned
        .ports
        .iter()
        .filter_map(|port| {
            let host = running.host_port(port.number)?;
            Some(json!({"service": port.service, "port": port.name, "guest_port": port.number, "address": format!("127.0.0.1:{host}")}))
        })
        .collect()
}
