//! What is on its way between a registry and this host, or being looked at, on stderr: on a terminal one line that is
//! written anew, with the rate; a line a layer elsewhere. At the end, what it took.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;

use super::client::Client;
use super::listing::size;

/// A POST that is answered with lines of progress as Docker's API has them, which are shown. An `error` among them is
/// the error; the last line's `aux`, for programs, is given back.
pub async fn with_progress(client: &Client, path: &str) -> anyhow::Result<Value> {
    let mut shown = Progress::new();
    let mut failure = None;
    let mut aux = Value::Null;
    let mut rest = Vec::new();
    client
        .stream_post(path, |bytes| {
            rest.extend_from_slice(bytes);
            while let Some(end) = rest.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let mut said: Value = serde_json::from_slice(&line)?;
                match said["error"].as_str() {
                    Some(text) => failure = Some(text.to_owned()),
                    None if said.get("aux").is_some() => aux = said["aux"].take(),
                    None => shown.say(&said)?,
                }
            }
            Ok(())
        })
        .await?;
    shown.end()?;
    match failure {
        Some(failure) => bail!("{failure}"),
        None => Ok(aux),
    }
}

/// Where it is shown, and how far it is.
struct Progress {
    terminal: bool,
    transfers: Transfers,
    began: Instant,
}

impl Progress {
    fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            transfers: Transfers::default(),
            began: Instant::now(),
        }
    }

    /// One line of the answer.
    fn say(&mut self, said: &Value) -> io::Result<()> {
        let status = said["status"].as_str().unwrap_or_default();
        let Some(id) = said["id"].as_str() else {
            self.end()?;
            return writeln!(io::stderr(), "{status}");
        };
        let number = |key: &str| said["progressDetail"][key].as_u64();
        match (number("current"), number("total")) {
            (Some(done), Some(total)) => self.transfers.at(id, done, total),
            _ => {
                self.transfers.over(id);
                if !self.terminal {
                    writeln!(io::stderr(), "{id}: {status}")?;
                }
            }
        }
        if self.terminal {
            write!(
                io::stderr(),
                "\r\x1b[K{}",
                self.transfers.line(self.began.elapsed())
            )?;
        }
        Ok(())
    }

    /// Makes room for what is not of layers, and says what they took.
    fn end(&mut self) -> io::Result<()> {
        let transfers = std::mem::take(&mut self.transfers);
        if self.terminal && !transfers.layers.is_empty() {
            write!(io::stderr(), "\r\x1b[K")?;
        }
        match transfers.took(self.began.elapsed()) {
            Some(took) => writeln!(io::stderr(), "{took}"),
            None => Ok(()),
        }
    }
}

/// Bytes of each layer: how many there are, and how many there will be.
#[derive(Debug, Default)]
struct Transfers {
    layers: BTreeMap<String, (u64, u64)>,
}

impl Transfers {
    fn at(&mut self, layer: &str, done: u64, total: u64) {
        self.layers.insert(layer.to_owned(), (done, total));
    }

    /// Of one that nothing was heard of before nothing was moved: it was there.
    fn over(&mut self, layer: &str) {
        let whole = self.layers.get(layer).map_or(0, |(_, total)| *total);
        self.layers.insert(layer.to_owned(), (whole, whole));
    }

    fn sums(&self) -> (u64, u64) {
        let each = self.layers.values();
        each.fold((0, 0), |(done, total), (d, t)| (done + d, total + t))
    }

    /// `2 of 5 layers, 120.0 MiB of 375.2 MiB, 95.1 MiB/s, 3s left`
    fn line(&self, elapsed: Duration) -> String {
        let (done, total) = self.sums();
        let over = self.layers.values().filter(|(done, total)| done == total).count();
        let mut line = format!(
            "{over} of {} layers, {} of {}",
            self.layers.len(),
            size(done),
            size(total)
        );
        if let Some(rate) = rate(done, elapsed) {
            line += &format!(", {}/s", size(rate));
            if rate > 0 && done < total {
                line += &format!(", {}s left", (total - done).div_ceil(rate));
            }
        }
        line
    }

    /// None where nothing had to be moved.
    fn took(&self, elapsed: Duration) -> Option<String> {
        let (done, _) = self.sums();
        let rate = rate(done, elapsed).filter(|_| done > 0)?;
        let seconds = elapsed.as_secs_f64();
        Some(format!("{} in {seconds:.1}s, {}/s", size(done), size(rate)))
    }
}

/// Bytes a second; none before there is a time to speak of.
fn rate(bytes: u64, elapsed: Duration) -> Option<u64> {
    let seconds = elapsed.as_secs_f64();
    (seconds >= 0.01).then(|| (bytes as f64 / seconds) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn how_far_it_is_and_how_fast() {
        let mut transfers = Transfers::default();
        transfers.at("a", 10 * MIB, 40 * MIB);
        transfers.at("b", 20 * MIB, 20 * MIB);
        let line = transfers.line(Duration::from_secs(2));
        assert_eq!(line, "1 of 2 layers, 30.0 MiB of 60.0 MiB, 15.0 MiB/s, 2s left");
        transfers.over("a");
        let line = transfers.line(Duration::from_secs(4));
        assert_eq!(line, "2 of 2 layers, 60.0 MiB of 60.0 MiB, 15.0 MiB/s");
    }

    #[test]
    fn nothing_is_said_of_a_rate_at_once_or_of_no_bytes() {
        let mut transfers = Transfers::default();
        transfers.at("a", 0, 0);
        assert_eq!(
            transfers.line(Duration::from_millis(1)),
            "1 of 1 layers, 0 B of 0 B"
        );
        transfers.over("b");
        assert_eq!(transfers.took(Duration::from_secs(1)), None);
    }

    #[test]
    fn what_it_took() {
        let mut transfers = Transfers::default();
        transfers.at("a", 0, 375 * MIB);
        transfers.over("a");
        let took = transfers.took(Duration::from_millis(2500)).unwrap();
        assert_eq!(took, "375.0 MiB in 2.5s, 150.0 MiB/s");
    }
}
