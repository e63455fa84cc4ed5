//! `wharf image inspect|history|tag|save|load|verify`.

use std::io::Write;
use std::path::Path;

use anyhow::bail;
use serde_json::Value;

use super::client::{Client, escaped};
use super::progress::with_progress;
use super::{DONE, FAILED, archives, listing};

/// All about images, as docker's JSON.
pub async fn inspect(client: &Client, names: &[String]) -> anyhow::Result<u8> {
    let mut found = Vec::new();
    for name in names {
        found.push(
            client
                .get::<Value>(&format!("/images/{}/json", escaped(name)))
                .await?,
        );
    }
    println!("{}", serde_json::to_string_pretty(&found)?);
    Ok(DONE)
}

/// How an image came about, the newest step first.
pub async fn history(
    client: &Client,
    name: &str,
    no_trunc: bool,
    quiet: bool,
    json: bool,
) -> anyhow::Result<u8> {
    let rows: Vec<Value> = client.get(&format!("/images/{}/history", escaped(name))).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else if quiet {
        for row in &rows {
            println!(
                "{}",
                listing::image_id(row["Id"].as_str().unwrap_or_default(), no_trunc)
            );
        }
    } else {
        print!("{}", listing::history(&rows, no_trunc));
    }
    Ok(DONE)
}

/// Prints nothing, as docker.
pub async fn tag(client: &Client, source: &str, target: &str) -> anyhow::Result<u8> {
    let path = format!("/images/{}/tag?repo={}", escaped(source), escaped(target));
    client.command(&path).await?;
    Ok(DONE)
}

pub async fn save(client: &Client, names: &[String], format: &str, output: &Path) -> anyhow::Result<u8> {
    let names: Vec<String> = names
        .iter()
        .map(|name| format!("names={}", escaped(name)))
        .collect();
    let path = format!("/images/get?{}&format={}", names.join("&"), escaped(format));
    archives::download(client, &path, output).await?;
    Ok(DONE)
}

/// Prints the names of what was loaded.
pub async fn load(client: &Client, input: &Path, name: Option<&str>) -> anyhow::Result<u8> {
    let from = archives::input(input)?;
    let path = format!("/wharf/v1/images/load?name={}", escaped(name.unwrap_or_default()));
    let loaded: Vec<Value> = client.upload(&path, "application/x-tar", from).await?;
    for image in &loaded {
        println!("{}", image["reference"].as_str().unwrap_or_default());
    }
    Ok(DONE)
}

/// Exit 1 where anything is wrong and stays so.
pub async fn verify(client: &Client, names: &[String], repair: bool, json: bool) -> anyhow::Result<u8> {
    let names: Vec<String> = names
        .iter()
        .map(|name| format!("&name={}", escaped(name)))
        .collect();
    let path = format!("/wharf/v1/images/verify?repair={repair}{}", names.concat());
    let all: Vec<Value> = serde_json::from_value(with_progress(client, &path).await?)?;
    let bad = all.iter().filter(|image| image["ok"] != true).count();
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(if bad == 0 { DONE } else { FAILED });
    }
    let mut out = std::io::stdout();
    for image in &all {
        tell(&mut out, image)?;
    }
    if bad > 0 {
        let what = match repair {
            true => "could not be repaired",
            false => "are damaged; --repair fetches anew what is",
        };
        bail!("{bad} of {} images {what}", all.len());
    }
    Ok(DONE)
}

fn tell(out: &mut impl Write, image: &Value) -> std::io::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let state = match (image["ok"] == true, image["repaired"] == true) {
        (true, true) => "repaired",
        (true, false) => "good",
        (false, _) => "damaged",
    };
    writeln!(out, "{}: {state}", text(&image["image"]))?;
    for damage in image["damage"].as_array().into_iter().flatten() {
        let path = damage["path"]
            .as_str()
            .map(|path| format!(" {path}"))
            .unwrap_or_default();
        writeln!(out, "  {}{path}: {}", text(&damage["what"]), text(&damage["why"]))?;
    }
    if let Some(why) = image["not_repaired"].as_str() {
        writeln!(out, "  not repaired: {why}")?;
    }
    Ok(())
}
