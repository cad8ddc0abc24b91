//! The plan as text for people. Secrets are shown as digests.

use std::fmt::Write;

use crate::plan::{File, Plan, Probe, Service, Task};
use crate::service::Phase;

impl Plan {
    /// The plan as text; `full` adds the content of every file.
    pub fn to_text(&self, full: bool) -> String {
        let mut out = String::new();
        self.write_text(&mut out, full).unwrap_or_default();
        out
    }

    fn write_text(&self, out: &mut String, full: bool) -> std::fmt::Result {
        let node = &self.node;
        writeln!(
            out,
            "machine     {} ({} node of {})",
            node.name, node.role, node.deployment
        )?;
        writeln!(out, "address     {} on {}", node.address, node.interface)?;
        if let (Some(cluster), Some(instance)) = (&node.cluster, &node.instance) {
            writeln!(out, "cluster     {cluster}, as {instance}")?;
        }
        writeln!(out, "\nnetwork")?;
        for file in &self.network {
            write_file(out, file, full)?;
        }
        for mount in &self.mounts {
            writeln!(
                out,
                "\nmount       {} ({}, partition {})",
                mount.target, mount.kind, mount.partition
            )?;
        }
        writeln!(out, "\ndirectories")?;
        for directory in &self.directories {
            let owner = format!("{}:{}", directory.owner, directory.group);
            writeln!(out, "  {} {owner:<22} {}", directory.mode, directory.path)?;
        }
        writeln!(out, "\nfiles")?;
        for file in &self.files {
            write_file(out, file, full)?;
        }
        for link in &self.links {
            writeln!(out, "  link {} -> {}", link.path, link.target)?;
        }
        writeln!(out, "\nservices")?;
        for service in &self.services {
            write_service(out, service)?;
        }
        for check in &self.checks {
            writeln!(out, "\ncheck       {}: {}", check.name, check.command)?;
        }
        Ok(())
    }
}

fn write_file(out: &mut String, file: &File, full: bool) -> std::fmt::Result {
    let owner = format!("{}:{}", file.owner, file.group);
    let content = &file.content;
    let note = if content.secret { " (secret)" } else { "" };
    writeln!(
        out,
        "  {} {owner:<22} {} {}{note}",
        file.mode,
        &content.digest()[..12],
        file.path
    )?;
    if full && !content.secret {
        for line in content.text.lines() {
            writeln!(out, "      | {line}")?;
        }
    }
    Ok(())
}

fn write_service(out: &mut String, service: &Service) -> std::fmt::Result {
    let unit = service.unit.as_deref().unwrap_or("no unit");
    writeln!(out, "  {} ({unit})", service.name)?;
    if !service.after.is_empty() {
        writeln!(out, "      after     {}", service.after.join(", "))?;
    }
    for task in service
        .tasks
        .iter()
        .filter(|task| task.phase == Phase::BeforeStart)
    {
        write_task(out, "before", task)?;
    }
    if let Some(health) = &service.health {
        let probe = match &health.probe {
            Probe::Http { url, .. } => format!("GET {url}"),
            Probe::Tcp { address } => format!("connect to {address}"),
            Probe::Exec { command, user } => format!("{} (as {user})", command.join(" ")),
        };
        writeln!(
            out,
            "      healthy   {probe}, within {} s",
            health.timeout_seconds
        )?;
    }
    for task in service
        .tasks
        .iter()
        .filter(|task| task.phase == Phase::AfterHealthy)
    {
        write_task(out, "then", task)?;
    }
    Ok(())
}

fn write_task(out: &mut String, when: &str, task: &Task) -> std::fmt::Result {
    write!(
        out,
        "      {when:<9} {}: {} (as {})",
        task.name,
        task.command.join(" "),
        task.user
    )?;
    if let Some(creates) = &task.creates {
        write!(out, ", unless {creates} exists")?;
    }
    writeln!(out)
}
