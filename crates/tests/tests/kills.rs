//! SIGKILL of the agent at any moment, while files come, change and go: each time it converges afterwards, restarts
//! nothing it need not, and leaks nothing.
//!
//! 20 kills; `WHARF_KILLS=200` makes it as many as one likes. What the agent was doing at each is read from its log and
//! counted; `WHARF_SEED` repeats a run's decisions (not its timing).
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::time::{Duration, Instant};

use model::status::Status;
use tests::client::pids;
use tests::leaks::Snapshot;
use tests::random::Random;
use tests::{Host, images, survey};

/// What is wished: by name, which image, and a word whose change replaces the container.
type Wish = BTreeMap<String, (u64, u64)>;

/// Divides the agents' lives in their common log.
const LIFE: &str = "=== next agent:";

const NAMES: u64 = 8;
/// More images than names, so that there is always one more to unpack.
const IMAGES: u64 = 24;

struct Storm {
    host: Host,
    random: Random,
    wish: Wish,
    phases: BTreeMap<String, u32>,
}

impl Storm {
    fn new() -> Self {
        Self {
            host: Host::new(),
            random: Random::seeded(),
            wish: Wish::new(),
            phases: BTreeMap::new(),
        }
    }

    /// Every image has a layer of its own: unpacking one takes a moment in which a kill may fall.
    fn image(&mut self, n: u64) -> String {
        let noise: Vec<u8> = (0..400_000)
            .map(|i: u64| (i.wrapping_mul(n * 2 + 1) >> 3) as u8)
            .collect();
        let gzip = images::LayerBuilder::new().compressed(images::Compression::Gzip);
        let layer = (0..6).fold(gzip.dir("noise", 0o755), |l, i| {
            l.file(&format!("noise/{i}"), 0o644, &noise)
        });
        self.host
            .oci_dir(&format!("image-{n}"), &images::hello().layer(layer))
    }

    /// One file is added, edited or removed.
    fn change(&mut self) {
        let slot = self.random.below(NAMES);
        let name = format!("c{slot}");
        match (self.wish.get(&name).copied(), self.random.below(3)) {
            (Some(_), 0) => {
                self.wish.remove(&name);
                self.host.remove(&format!("{name}.toml"));
            }
            (Some((image, word)), 1) => self.wish_for(&name, slot, image, word + 1),
            (_, _) => {
                let image = self.random.below(IMAGES);
                let word = self.random.below(1000);
                self.wish_for(&name, slot, image, word);
            }
        }
    }

    fn wish_for(&mut self, name: &str, slot: u64, image: u64, word: u64) {
        let image_ref = self.image(image);
        let table = format!(
            "[container.{name}]\nimage = {image_ref:?}\nports = [\"{}:80\"]\nenv = {{ WORD = \"{word}\" }}\n",
            8000 + slot
        );
        self.host.write_renamed(&format!("{name}.toml"), &table);
        self.wish.insert(name.to_owned(), (image, word));
    }

    /// What the agent was doing when its log ends: what began last and did not end.
    fn phase(&self) -> String {
        let all = self.host.log();
        let log = all.rsplit(LIFE).next().unwrap();
        let mut open: Vec<&str> = Vec::new();
        for line in log.lines() {
            if let Some((_, name)) = line.split_once("wharf::action: begin ") {
                open.push(name);
            } else if let Some((_, name)) = line.split_once("wharf::action: end ")
                && let Some(at) = open.iter().rposition(|o| *o == name)
            {
                open.remove(at);
            }
        }
        open.last().map_or("idle", |p| *p).to_owned()
    }

    /// Up to three changes, and a kill at a random moment or in the phase that was hit least so far; the new agent
    /// starts at once.
    fn change_and_kill(&mut self) {
        let rarest = ["unpack", "create", "network", "firewall", "remove"]
            .into_iter()
            .min_by_key(|p| self.phases.get(*p).copied().unwrap_or(0))
            .unwrap();
        let logged = self.host.log().len() as u64;
        for _ in 0..=self.random.below(3) {
            self.change();
        }
        if self.random.below(2) == 0 {
            self.await_begin(rarest, logged);
        } else {
            let pause = self.random.below(120);
            std::thread::sleep(Duration::from_millis(pause));
        }
        self.host.kill_agent();
        let phase = self.phase();
        *self.phases.entry(phase).or_default() += 1;
        self.host.note(&format!(
            "{LIFE} killed in {:?}; wished now: {:?}",
            self.phases, self.wish
        ));
        self.host.start_agent();
    }

    /// Until the log says that this began, but not for long: there may be nothing of it to do. What takes a moment is
    /// hit at a random point of it, what is over at once as soon as it is seen.
    fn await_begin(&mut self, phase: &str, logged: u64) {
        let line = format!("begin {phase}");
        let mut log = std::fs::File::open(self.host.log_path()).unwrap();
        log.seek(SeekFrom::Start(logged)).unwrap();
        let (start, mut seen) = (Instant::now(), String::new());
        while start.elapsed() < Duration::from_millis(300) {
            log.read_to_string(&mut seen).unwrap();
            if seen.contains(&line) {
                let spread = if ["unpack", "create"].contains(&phase) {
                    8000
                } else {
                    1
                };
                std::thread::sleep(Duration::from_micros(self.random.below(spread)));
                return;
            }
        }
    }

    /// Converged on what is wished, and nobody left who is not.
    fn settle(&self) -> Status {
        self.host.wharf(["reload"]).ok();
        let wanted: Vec<&String> = self.wish.keys().collect();
        let status = self.host.until(&format!("as wished: {:?}", self.wish), |s| {
            s.converged && s.containers.iter().map(|c| &c.name).collect::<Vec<_>>() == wanted
        });
        assert_eq!(pids(&status).len(), wanted.len(), "all of them run");
        assert_eq!(
            survey::orphans(&self.host, &status),
            [],
            "after phases {:?}",
            self.phases
        );
        status
    }

    /// Whom nobody changed keeps its pid.
    fn assert_kept(before: (&Wish, &Status), after: (&Wish, &Status)) {
        let (old, new) = (pids(before.1), pids(after.1));
        for (name, wish) in before
            .0
            .iter()
            .filter(|(name, wish)| after.0.get(*name) == Some(wish))
        {
            assert_eq!(
                old[name], new[name],
                "{name} ({wish:?}) was restarted for nothing"
            );
        }
    }
}

#[test]
fn slow_kills_at_any_moment_are_survived() {
    let kills: u32 = std::env::var("WHARF_KILLS").map_or(20, |n| n.parse().expect("WHARF_KILLS is a number"));
    let mut storm = Storm::new();
    storm.host.start_agent();
    storm.host.converge();
    let rest = Snapshot::take(&storm.host);
    let mut before = (storm.wish.clone(), storm.settle());
    for _ in 0..kills {
        storm.change_and_kill();
        let after = (storm.wish.clone(), storm.settle());
        Storm::assert_kept((&before.0, &before.1), (&after.0, &after.1));
        before = after;
    }
    eprintln!("kills by phase: {:?}", storm.phases);
    storm.host.remove_all();
    storm.wish.clear();
    storm.settle();
    storm.host.assert_no_leaks(&rest);
}
