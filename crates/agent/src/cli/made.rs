//! `wharf diff`, `export`, `commit` and `image import`: what a container changed, as a list, an archive or an image.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::client::{Client, escaped};
use super::{CommitArgs, DONE, ImportArgs, archives};

/// A line a change: A added, C changed, D deleted.
pub async fn diff(client: &Client, name: &str, as_json: bool) -> anyhow::Result<u8> {
    let changes: Vec<Value> = client
        .get(&format!("/containers/{}/changes", escaped(name)))
        .await?;
    let kind = |change: &Value| match change["Kind"].as_u64() {
        Some(0) => "C",
        Some(1) => "A",
        Some(2) => "D",
        _ => "?",
    };
    if as_json {
        let row = |change: &Value| json!({ "kind": kind(change), "path": change["Path"] });
        let rows: Vec<Value> = changes.iter().map(row).collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(DONE);
    }
    let mut out = io::stdout().lock();
    for change in &changes {
        writeln!(
            out,
            "{} {}",
            kind(change),
            change["Path"].as_str().unwrap_or_default()
        )?;
    }
    Ok(DONE)
}

/// Its root, as an archive.
pub async fn export(client: &Client, name: &str, output: &Path) -> anyhow::Result<u8> {
    let path = format!("/containers/{}/export", escaped(name));
    archives::download(client, &path, output).await?;
    Ok(DONE)
}

/// Prints the new image's id.
pub async fn commit(client: &Client, args: &CommitArgs) -> anyhow::Result<u8> {
    let mut path = format!(
        "/commit?container={}&repo={}&pause={}",
        escaped(&args.container),
        escaped(&args.reference),
        args.pause
    );
    path += &rest(args.author.as_deref(), args.message.as_deref(), &args.change);
    let made: Value = client.post(&path).await?;
    println!("{}", made["Id"].as_str().unwrap_or_default());
    Ok(DONE)
}

/// Prints the new image's id.
pub async fn import(client: &Client, args: &ImportArgs) -> anyhow::Result<u8> {
    let from = archives::input(&args.file)?;
    let mut path = format!("/images/create?fromSrc=-&repo={}", escaped(&args.reference));
    path += &rest(None, args.message.as_deref(), &args.change);
    let made: Value = client.upload(&path, "application/x-tar", from).await?;
    println!("{}", made["status"].as_str().unwrap_or_default());
    Ok(DONE)
}

fn rest(author: Option<&str>, message: Option<&str>, changes: &[String]) -> String {
    let mut query = String::new();
    for (key, value) in [("author", author), ("comment", message)] {
        if let Some(value) = value {
            query += &format!("&{key}={}", escaped(value));
        }
    }
    for change in changes {
        query += &format!("&changes={}", escaped(change));
    }
    query
}
