//! Tables of the client commands, and the log stream's framing.

use std::collections::BTreeSet;

use model::status::{ContainerStatus, ImageStatus, PortStatus, Status};
use serde_json::Value;

use crate::report::{self, table};

/// Most characters of a command that a history shows.
const COMMAND: usize = 60;

/// `wharf status`.
pub fn status(status: &Status, one: bool) -> String {
    let mut text = String::new();
    if !status.containers.is_empty() {
        let rows: Vec<Vec<String>> = status.containers.iter().map(container).collect();
        text += &table(
            &["NAME", "STATE", "HEALTH", "RESTARTS", "IMAGE", "PORTS", "FILE"],
            &rows,
        );
    } else if !one {
        text += "no containers are declared\n";
    }
    for c in status
        .containers
        .iter()
        .filter(|c| c.error.is_some() || c.hold.is_some())
    {
        let why = c.error.clone().or_else(|| c.hold.clone()).unwrap_or_default();
        text += &format!("{}: {why}\n", c.name);
    }
    for c in &status.containers {
        text += &runs(c, one);
        // Of all of them, those that are closed to whom they are meant for.
        let told = c.ports.iter().filter(|p| one || p.closed_by.is_some());
        text.extend(told.map(|p| format!("{}{}\n", if one { "  " } else { "" }, reach(p))));
    }
    for c in status.containers.iter().filter(|_| one) {
        for line in c.rolled_back.iter().flat_map(|r| &r.log) {
            text += &format!("  it said: {line}\n");
        }
    }
    for network in status.networks.iter().filter(|_| !one) {
        if let Some(error) = &network.error {
            text += &format!("network {}: {error}\n", network.name);
        }
    }
    for image in status.images.iter().filter(|_| !one) {
        if let Some(error) = &image.error {
            text += &format!("image {}: {error}\n", image.reference);
        }
    }
    for error in &status.errors {
        text += &format!("{}: {}\n", error.at, error.message);
        if let Some(hint) = &error.hint {
            text += &format!("  hint: {hint}\n");
        }
    }
    if let Some(note) = status.firewall_note.iter().find(|_| !one) {
        text += &format!("firewall {}: {note}\n", status.firewall);
    }
    if !one {
        text += if status.converged {
            "converged\n"
        } else {
            "not converged\n"
        };
    }
    text
}

/// Who can reach it.
fn reach(port: &PortStatus) -> String {
    let whom = match port.open_to.as_str() {
        "host" => "this host".to_owned(),
        "sources" => format!("{} and this host", port.allow.join(", ")),
        "nobody" => {
            return format!(
                "{} is published by nobody (`backend = \"none\"`)",
                published(port)
            );
        }
        _ => "everybody".to_owned(),
    };
    let but = match (&port.closed_by, &port.unjudged) {
        (Some(by), _) => format!(", but closed by {by}"),
        (None, Some(what)) => format!(", as far as is known: {what} are not judged"),
        (None, None) => String::new(),
    };
    format!("{} is open to {whom}{but}", published(port))
}

fn published(p: &PortStatus) -> String {
    format!("{}->{}/{}", host_side(p), p.container, p.protocol)
}

/// Address and port on the host, as they are written in a URL.
pub fn host_side(p: &PortStatus) -> String {
    match p.ip.contains(':') {
        true => format!("[{}]:{}", p.ip, p.host),
        false => format!("{}:{}", p.ip, p.host),
    }
}

/// What there is to say of a schedule; of the runs there were where it is about this one.
fn runs(c: &ContainerStatus, one: bool) -> String {
    let mut text = String::new();
    if let Some(next) = c.next_run {
        text += &format!("{}: next run {next}\n", c.name);
    }
    for run in c.last_runs.iter().filter(|_| one) {
        let (began, code) = (run.started_at, run.exit_code);
        text += &format!("  ran {began} for {}, exit code {code}\n", run.duration);
    }
    text
}

fn container(c: &ContainerStatus) -> Vec<String> {
    vec![
        report::full_name(c),
        report::state_word(c.state).to_owned(),
        if c.health == "none" {
            "-".to_owned()
        } else {
            c.health.clone()
        },
        c.restarts.to_string(),
        c.image.clone(),
        c.ports.iter().map(published).collect::<Vec<_>>().join(", "),
        c.file.clone().unwrap_or_default(),
    ]
}

/// `wharf ps`, in docker's columns.
pub fn ps(rows: &[Value]) -> String {
    let now = jiff::Timestamp::now();
    let cells = |r: &Value| {
        let id = r["Id"].as_str().unwrap_or_default();
        let created = jiff::Timestamp::from_second(r["Created"].as_i64().unwrap_or(0)).unwrap_or(now);
        let ports = r["Ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        let port = |p: &Value| {
            let text = |key: &str| p[key].as_str().unwrap_or_default().to_owned();
            format!(
                "{}:{}->{}/{}",
                text("IP"),
                p["PublicPort"],
                p["PrivatePort"],
                text("Type")
            )
        };
        let name = r["Names"][0].as_str().unwrap_or_default().trim_start_matches('/');
        vec![
            id[..id.len().min(12)].to_owned(),
            r["Image"].as_str().unwrap_or_default().to_owned(),
            shortened(r["Command"].as_str().unwrap_or_default()),
            format!("{} ago", report::ago(created, now)),
            r["Status"].as_str().unwrap_or_default().to_owned(),
            ports.iter().map(port).collect::<Vec<_>>().join(", "),
            name.to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    table(
        &[
            "CONTAINER ID",
            "IMAGE",
            "COMMAND",
            "CREATED",
            "STATUS",
            "PORTS",
            "NAMES",
        ],
        &rows,
    )
}

/// At most 20 characters, quoted, as docker shows commands.
fn shortened(command: &str) -> String {
    if command.chars().count() <= 20 {
        return format!("\"{command}\"");
    }
    let start: String = command.chars().take(19).collect();
    format!("\"{start}…\"")
}

/// `wharf network ls`.
pub fn networks(status: &Status) -> String {
    let row = |n: &model::status::NetworkStatus| {
        // Of both families.
        let text = |four: &Option<String>, six: &Option<String>| {
            let both: Vec<&str> = four.iter().chain(six).map(String::as_str).collect();
            if both.is_empty() {
                "-".to_owned()
            } else {
                both.join(", ")
            }
        };
        vec![
            n.name.clone(),
            n.driver.clone(),
            n.device.clone(),
            text(&n.subnet, &n.subnet6),
            text(&n.gateway, &n.gateway6),
            n.containers.join(", "),
        ]
    };
    let rows: Vec<Vec<String>> = status.networks.iter().map(row).collect();
    table(
        &["NAME", "DRIVER", "DEVICE", "SUBNET", "GATEWAY", "CONTAINERS"],
        &rows,
    )
}

/// `wharf volume ls`.
pub fn volumes(status: &Status) -> String {
    let row = |v: &model::status::VolumeStatus| {
        let kept = if v.kept { "yes" } else { "no" };
        vec![
            v.name.clone(),
            v.driver.clone(),
            kept.to_owned(),
            v.used_by.join(", "),
            v.path.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = status.volumes.iter().map(row).collect();
    table(&["NAME", "DRIVER", "KEPT", "USED BY", "PATH"], &rows)
}

/// `wharf image ls`.
pub fn images(status: &Status, digests: bool) -> String {
    let row = |i: &ImageStatus| {
        let mut row = vec![i.reference.clone()];
        if digests {
            row.push(i.digest.clone().unwrap_or_else(|| "-".to_owned()));
        }
        let id = i.id.as_deref().map_or("-", short_id);
        row.extend([id.to_owned(), size(i.size), i.used_by.join(", ")]);
        row
    };
    let rows: Vec<Vec<String>> = status.images.iter().map(row).collect();
    match digests {
        true => table(&["REF", "DIGEST", "IMAGE ID", "SIZE", "USED BY"], &rows),
        false => table(&["REF", "IMAGE ID", "SIZE", "USED BY"], &rows),
    }
}

/// Each once, a line each.
pub fn image_ids(status: &Status) -> String {
    let ids = status.images.iter().filter_map(|i| i.id.as_deref());
    let ids: BTreeSet<&str> = ids.map(short_id).collect();
    ids.iter().map(|id| format!("{id}\n")).collect()
}

/// Its first twelve digits, as Docker shows them.
fn short_id(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

/// The id of a step of an image's history; those of other hosts' builds have none.
pub fn image_id(id: &str, whole: bool) -> &str {
    if whole || !id.starts_with("sha256:") {
        id
    } else {
        short_id(id)
    }
}

/// The rows of an image's history, as docker shows them.
pub fn history(rows: &[Value], whole: bool) -> String {
    let row = |row: &Value| {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let created = jiff::Timestamp::from_second(row["Created"].as_i64().unwrap_or_default());
        let created = created.map(|time| time.to_string()).unwrap_or_default();
        let line = text("CreatedBy").split_whitespace().collect::<Vec<_>>().join(" ");
        let by = match line.char_indices().nth(COMMAND) {
            Some((end, _)) if !whole => format!("{}…", &line[..end]),
            _ => line,
        };
        let id = image_id(text("Id"), whole).to_owned();
        let bytes = size(row["Size"].as_u64().unwrap_or_default());
        vec![id, created, by, bytes, text("Comment").to_owned()]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    table(&["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"], &rows)
}

/// Bytes as people read them, in powers of 1024.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Takes Docker's multiplexed stream apart: 8 bytes of header (stream, three zeroes, big-endian length), then the data
/// (Docker Engine API, ContainerAttach, "Stream format").
#[derive(Debug, Default)]
pub struct Frames {
    rest: Vec<u8>,
}

impl Frames {
    /// Hands out what is complete by now; the flag is true for stderr.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(bool, &[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(head) = self.rest.get(at..at + 8) {
            let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            let stderr = head[0] == 2;
            let Some(data) = self.rest.get(at + 8..at + 8 + length) else {
                break;
            };
            each(stderr, data)?;
            at += 8 + length;
        }
        self.rest.drain(..at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_they_are_cut() {
        let mut stream = vec![1, 0, 0, 0, 0, 0, 0, 3];
        stream.extend(b"out");
        stream.extend([2, 0, 0, 0, 0, 0, 0, 3]);
        stream.extend(b"err");
        for cut in 1..stream.len() {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for part in stream.chunks(cut) {
                frames
                    .feed(part, |stderr, data| {
                        seen.push((stderr, data.to_vec()));
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!(
                seen,
                [(false, b"out".to_vec()), (true, b"err".to_vec())],
                "cut {cut}"
            );
        }
    }

    #[test]
    fn sizes_and_commands_are_short() {
        assert_eq!(size(512), "512 B");
        assert_eq!(size(3 << 20), "3.0 MiB");
        assert_eq!(shortened("/bin/true"), "\"/bin/true\"");
        assert_eq!(
            shortened("a-very-long-command --with-arguments"),
            "\"a-very-long-command…\""
        );
    }
}
