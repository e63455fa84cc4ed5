//! `wharf volume export|import|clone`.

use std::path::Path;

use serde_json::Value;

use super::client::{Client, escaped};
use super::{DONE, archives};

/// What a volume holds, as an archive; `sparse` leaves its holes out, as GNU tar does.
pub async fn export(
    client: &Client,
    name: &str,
    output: &Path,
    sparse: bool,
    pause: bool,
) -> anyhow::Result<u8> {
    let path = format!(
        "/wharf/v1/volumes/{}/export?sparse={sparse}&pause={pause}",
        escaped(name)
    );
    archives::download(client, &path, output).await?;
    Ok(DONE)
}

/// What could not be kept as it was in the archive is told.
pub async fn import(client: &Client, name: &str, input: &Path, pause: bool) -> anyhow::Result<u8> {
    let from = archives::input(input)?;
    let path = format!("/wharf/v1/volumes/{}/import?pause={pause}", escaped(name));
    let imported: Value = client.upload(&path, "application/x-tar", from).await?;
    for entry in imported["left_out"].as_array().into_iter().flatten() {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        eprintln!("{}: {}", text("path"), text("why"));
    }
    println!("{name}");
    Ok(DONE)
}

/// Prints the new one's name.
pub async fn clone(client: &Client, from: &str, to: &str, pause: bool) -> anyhow::Result<u8> {
    let path = format!(
        "/wharf/v1/volumes/{}/clone?to={}&pause={pause}",
        escaped(from),
        escaped(to)
    );
    let _: Value = client.post(&path).await?;
    println!("{to}");
    Ok(DONE)
}
