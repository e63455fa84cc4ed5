//! `wharf image …` and `wharf volume …`.

use std::io::{IsTerminal, Write};

use anyhow::bail;
use model::status::Status;
use serde_json::Value;

use super::client::{Client, escaped};
use super::online::list;
use super::progress::with_progress;
use super::{DONE, ImageCommand, VolumeCommand, copies, images, listing, made, registries};

/// Named ones too: Docker's word for them is a filter.
const ALL_UNUSED: &str = "/volumes/prune?filters=%7B%22all%22%3A%5B%22true%22%5D%7D";

/// `wharf image …`.
pub async fn image(client: &Client, command: ImageCommand) -> anyhow::Result<u8> {
    match command {
        ImageCommand::Ls { digests, quiet, json } => {
            let shown = |status: &Status| match quiet {
                true => listing::image_ids(status),
                false => listing::images(status, digests),
            };
            list(client, json, |s| serde_json::to_value(s.images), shown).await
        }
        ImageCommand::Inspect { names } => images::inspect(client, &names).await,
        ImageCommand::History {
            name,
            no_trunc,
            quiet,
            json,
        } => images::history(client, &name, no_trunc, quiet, json).await,
        ImageCommand::Tag { source, target } => images::tag(client, &source, &target).await,
        ImageCommand::Save {
            names,
            output,
            format,
        } => images::save(client, &names, &format, &output).await,
        ImageCommand::Load { input, name } => images::load(client, &input, name.as_deref()).await,
        ImageCommand::Verify { names, repair, json } => images::verify(client, &names, repair, json).await,
        ImageCommand::Import(args) => made::import(client, &args).await,
        ImageCommand::Pull { references } => pull(client, &references).await,
        ImageCommand::Push { references } => registries::push(client, &references).await,
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
        VolumeCommand::Export {
            name,
            output,
            sparse,
            pause,
        } => copies::export(client, &name, &output, sparse, pause).await,
        VolumeCommand::Import { name, input, pause } => copies::import(client, &name, &input, pause).await,
        VolumeCommand::Clone { from, to, pause } => copies::clone(client, &from, &to, pause).await,
        VolumeCommand::Prune { force, json } => prune_volumes(client, force, json).await,
    }
}

async fn pull(client: &Client, references: &[String]) -> anyhow::Result<u8> {
    for reference in references {
        let path = format!("/images/create?fromImage={}", escaped(reference));
        with_progress(client, &path).await?;
        println!("{reference}");
    }
    Ok(DONE)
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
    let pruned: Value = client.post(ALL_UNUSED).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&pruned)?);
        return Ok(DONE);
    }
    for name in pruned["VolumesDeleted"].as_array().into_iter().flatten() {
        println!("{}", name.as_str().unwrap_or_default());
    }
    Ok(DONE)
}

pub(super) fn confirmed(unused: &[&str]) -> anyhow::Result<bool> {
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
