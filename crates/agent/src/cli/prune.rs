//! `wharf prune`.

use anyhow::bail;
use serde_json::Value;

use super::client::Client;
use super::{DONE, PruneArgs, listing, stores};
use crate::report::table;

/// Asks only where data would be gone for good: all else comes again from where it came from, or lies in the trash.
pub async fn prune(client: &Client, args: &PruneArgs) -> anyhow::Result<u8> {
    if args.trash && !args.dry_run && !args.force {
        let would: Value = client.post("/wharf/v1/prune?dry_run=true&trash=true").await?;
        let names: Vec<&str> = each(&would, "trash", "name").map(|(name, _)| name).collect();
        if !names.is_empty() && !stores::confirmed(&names)? {
            bail!("nothing was removed");
        }
    }
    let path = format!("/wharf/v1/prune?dry_run={}&trash={}", args.dry_run, args.trash);
    let pruned: Value = client.post(&path).await?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&pruned)?),
        false => print!("{}", said(&pruned, args.dry_run)),
    }
    Ok(DONE)
}

fn said(pruned: &Value, dry_run: bool) -> String {
    let mut rows = Vec::new();
    for (kind, list, key) in [
        ("image", "images", "ref"),
        ("volume", "volumes", "name"),
        ("trash", "trash", "name"),
    ] {
        for (name, entry) in each(pruned, list, key) {
            let bytes = entry["bytes"].as_u64().or(entry["size"].as_u64());
            rows.push(vec![
                kind.to_owned(),
                name.to_owned(),
                bytes.map(listing::size).unwrap_or_default(),
            ]);
        }
    }
    let layers = match pruned["layers"].as_u64().unwrap_or_default() {
        1 => "1 layer".to_owned(),
        count => format!("{count} layers"),
    };
    let bytes = listing::size(pruned["bytes"].as_u64().unwrap_or_default());
    let what = if dry_run { "would be" } else { "were" };
    let sum = format!("{layers} and {bytes} {what} removed\n");
    match rows.is_empty() {
        true => sum,
        false => table(&["KIND", "NAME", "SIZE"], &rows) + &sum,
    }
}

fn each<'v>(pruned: &'v Value, list: &str, key: &'v str) -> impl Iterator<Item = (&'v str, &'v Value)> {
    let entries = pruned[list].as_array().into_iter().flatten();
    entries.map(move |entry| (entry[key].as_str().unwrap_or_default(), entry))
}
