//! `wharf image …` and `wharf volume …`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use anyhow::bail;
use model::status::Status;
use serde_json::Value;

use super::client::{Client, escaped};
use super::online::list;
use super::{DONE, ImageCommand, VolumeCommand, listing};

/// `wharf image …`.
pub async fn image(client: &Client, command: ImageCommand) -> anyhow::Result<u8> {
    match command {
        ImageCommand::Ls { json } => {
            list(client, json, |s| serde_json::to_value(s.images), listing::images).await
        }
        ImageCommand::Pull { references } => pull(client, &references).await,
        ImageCommand::Rm { names } => {
            remove(client, &names, |name| format!("/images/{}", escaped(name))).await
        }
        ImageCommand::Prune { dry_run, json } => prune_images(client, dry_run, json).await,
    }
}

/// `wharf volume …`.
pub async fn volume(client: &Client, command: VolumeCommand) -> anyhow::Result<u8> {
    match command {
        VolumeCommand::Ls { json } => {
            list(
                client,
                json,
                |s| serde_json::to_value(s.volumes),
                listing::volumes,
            )
            .await
        }
        VolumeCommand::Inspect { names } => {
            let mut found = Vec::new();
            for name in &names {
                found.push(
                    client
                        .get::<Value>(&format!("/volumes/{}", escaped(name)))
                        .await?,
                );
            }
            println!("{}", serde_json::to_string_pretty(&found)?);
            Ok(DONE)
        }
        VolumeCommand::Rm { names } => {
            remove(client, &names, |name| format!("/volumes/{}", escaped(name))).await
        }
        VolumeCommand::Prune { force, json } => prune_volumes(client, force, json).await,
    }
}

async fn pull(client: &Client, references: &[String]) -> anyhow::Result<u8> {
    for reference in references {
        let mut shown = Progress::new();
        let mut failure = None;
        let mut rest = Vec::new();
        let path = format!("/images/create?fromImage={}", escaped(reference));
        client
            .stream_post(&path, |bytes| {
                rest.extend_from_slice(bytes);
                while let Some(end) = rest.iter().position(|&b| b == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    let said: Value = serde_json::from_slice(&line)?;
                    match said["error"].as_str() {
                        Some(text) => failure = Some(text.to_owned()),
                        None => shown.say(&said)?,
                    }
                }
                Ok(())
            })
            .await?;
        shown.end()?;
        if let Some(failure) = failure {
            bail!("{failure}");
        }
        println!("{reference}");
    }
    Ok(DONE)
}

/// What is on its way, on stderr: one line that is written anew on a terminal, a line a layer elsewhere.
struct Progress {
    terminal: bool,
    layers: BTreeMap<String, (u64, u64)>,
}

impl Progress {
    fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            layers: BTreeMap::new(),
        }
    }

    fn say(&mut self, said: &Value) -> std::io::Result<()> {
        let status = said["status"].as_str().unwrap_or_default();
        let Some(id) = said["id"].as_str() else {
            self.end()?;
            return writeln!(std::io::stderr(), "{status}");
        };
        let detail = &said["progressDetail"];
        let number = |key: &str| detail[key].as_u64();
        match (number("current"), number("total")) {
            (Some(done), Some(total)) => {
                self.layers.insert(id.to_owned(), (done, total));
            }
            _ => {
                let whole = self.layers.get(id).map_or(0, |(_, total)| *total);
                self.layers.insert(id.to_owned(), (whole, whole));
                if !self.terminal {
                    writeln!(std::io::stderr(), "{id}: {status}")?;
                }
            }
        }
        if self.terminal {
            let (done, total) = self.layers.values().fold((0, 0), |(d, t), (a, b)| (d + a, t + b));
            let (done, total) = (listing::size(done), listing::size(total));
            let layers = self.layers.len();
            write!(std::io::stderr(), "\r\x1b[K{layers} layers: {done} of {total}")?;
        }
        Ok(())
    }

    fn end(&mut self) -> std::io::Result<()> {
        if self.terminal && !self.layers.is_empty() {
            self.layers.clear();
            write!(std::io::stderr(), "\r\x1b[K")?;
        }
        Ok(())
    }
}

async fn remove(client: &Client, names: &[String], path: impl Fn(&str) -> String) -> anyhow::Result<u8> {
    let mut failed = 0;
    for name in names {
        match client.delete::<Value>(&path(name)).await {
            Ok(_) => println!("{name}"),
            Err(e) if names.len() == 1 => return Err(e),
            Err(e) => {
                eprintln!("{name}: {e:#}");
                failed += 1;
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} could not be removed", names.len());
    }
    Ok(DONE)
}

async fn prune_images(client: &Client, dry_run: bool, json: bool) -> anyhow::Result<u8> {
    let pruned: Value = client.post(&format!("/images/prune?dry_run={dry_run}")).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&pruned)?);
        return Ok(DONE);
    }
    for image in pruned["ImagesDeleted"].as_array().into_iter().flatten() {
        println!("{}", image["Untagged"].as_str().unwrap_or_default());
    }
    let bytes = pruned["SpaceReclaimed"].as_u64().unwrap_or_default();
    let what = if dry_run { "would be" } else { "were" };
    println!("{} {what} freed", listing::size(bytes));
    Ok(DONE)
}

async fn prune_volumes(client: &Client, force: bool, json: bool) -> anyhow::Result<u8> {
    let status: Status = client.get("/wharf/v1/status").await?;
    let unused: Vec<&str> = status
        .volumes
        .iter()
        .filter(|v| v.used_by.is_empty())
        .map(|v| v.name.as_str())
        .collect();
    if !force && !unused.is_empty() && !confirmed(&unused)? {
        bail!("nothing was removed");
    }
    let pruned: Value = client.post("/volumes/prune").await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&pruned)?);
        return Ok(DONE);
    }
    for name in pruned["VolumesDeleted"].as_array().into_iter().flatten() {
        println!("{}", name.as_str().unwrap_or_default());
    }
    Ok(DONE)
}

fn confirmed(unused: &[&str]) -> anyhow::Result<bool> {
    let list = unused.join(", ");
    if !std::io::stdin().is_terminal() {
        bail!("this removes the data of {list}; say so with --force");
    }
    eprint!("This removes the data of {list}. Go on? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
