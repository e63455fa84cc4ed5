//! Configs and secrets: their files, and a running container's view of them; and what is said about one run.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use model::action::Instance;
use model::content::Delivered;
use model::links;
use model::name::ContainerId;
use oci_spec::runtime::Spec;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{PASSING, PATIENCE, Result, Runtime, RuntimeError, done, ended, is_passing, millis};
use crate::bundle::CONFIG;
use crate::contents::refresh::{Answer as Refreshed, Request as Refresh, Shown, shown};
use crate::contents::swap::Found;
use crate::contents::{deliver, retired};
use crate::shim::files::{self, Process};
use crate::shim::protocol::{Answer, Command, Request, RestartCause};

/// In a bundle's directory; mounted at `/etc/hosts`.
const HOSTS: &str = "hosts";

/// How long the exchange of mounts may take; what is met inside may never answer.
const EXCHANGE: Duration = Duration::from_secs(20);

impl Runtime {
    /// Has exactly these files, with these bytes, be what the container sees of configs and secrets: secrets at once,
    /// configs from the next run on or after [`Runtime::refresh_contents`]. To be done before a container that has any
    /// is prepared. Each file is replaced as a whole, and one that is so already is not touched.
    pub fn deliver(&self, id: &ContainerId, files: &[(Delivered, Vec<u8>)]) -> Result<()> {
        let mounted = self.has_shim(id)?;
        deliver::deliver(&self.roots.container_contents(id), files, mounted)
    }

    /// Has a running container, paused or not, see its files as they are now; of one that does not run, the next run
    /// will. Gives how many mounts were exchanged for it.
    ///
    /// # Errors
    /// [`RuntimeError::Contents`] where the container has put something in the way.
    pub fn refresh_contents(&self, id: &ContainerId) -> Result<usize> {
        self.refresh_as(id, true)
    }

    /// The same; without `beneath` as on a kernel that cannot put a mount beneath another one: for tests.
    #[doc(hidden)]
    pub fn refresh_as(&self, id: &ContainerId, beneath: bool) -> Result<usize> {
        let path = self.files(id).run.join(CONFIG);
        let spec: Option<Spec> = files::read(&path).map_err(RuntimeError::file("read", &path))?;
        let contents_dir = self.roots.container_contents(id);
        let files = spec.map_or_else(Vec::new, |spec| shown(&spec, &contents_dir));
        if files.is_empty() {
            return Ok(0);
        }
        let give_up = Instant::now() + PATIENCE;
        while let Some(payload) = self.payload(id)? {
            let request = Refresh {
                payload,
                files: files.clone(),
                beneath,
            };
            match self.exchange(id, &request)? {
                Refreshed::Done(found) => return settle(&contents_dir, &files, &found),
                Refreshed::Failed(why) => return Err(contents(id, why)),
                // A run that begins from here on has the files as they are.
                Refreshed::Ended if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(1)),
                Refreshed::Ended => return Err(contents(id, "its runs end too soon".to_owned())),
            }
        }
        let nothing = vec![Found::Only; files.len()];
        settle(&contents_dir, &files, &nothing).map(|_| 0)
    }

    /// Has its `/etc/hosts` lead to the containers it is linked to; of one whose bundle is not made yet, that will. Written
    /// in place, for a mount keeps the file it was made of: whoever reads it meanwhile may read half of it.
    pub fn renew_hosts(&self, i: &Instance) -> Result<()> {
        let path = self.files(&i.id).run.join(HOSTS);
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(RuntimeError::file("read", &path))?,
        };
        let renewed = links::renewed(&text, &i.links);
        if renewed == text {
            return Ok(());
        }
        let write = || {
            let mut file = fs::File::options().write(true).open(&path)?;
            file.write_all(renewed.as_bytes())?;
            file.set_len(renewed.len() as u64)
        };
        write().map_err(RuntimeError::file("write", &path))
    }

    /// Sends the payload of one run a signal. False where that run is over.
    pub fn signal(&self, id: &ContainerId, run_no: u64, signal: &str) -> Result<bool> {
        let signal = signal.to_owned();
        self.tell_run(id, run_no, Command::Kill { signal }, PATIENCE)
    }

    /// Ends one run (`signal`, after `grace` SIGKILL) and begins another, which goes by no policy and is not counted.
    /// Returns when that was begun; false where the run was over already, and nothing was done.
    pub fn restart_run(&self, id: &ContainerId, run_no: u64, signal: &str, grace: Duration) -> Result<bool> {
        let command = Command::Restart {
            signal: signal.to_owned(),
            grace_ms: millis(grace),
            why: RestartCause::ByHand,
        };
        let done = self.tell_run(id, run_no, command, grace.saturating_add(PATIENCE))?;
        if done {
            // The new run has the files of now, and the one that had older ones is over.
            retired::clear(&self.roots.container_contents(id))?;
        }
        Ok(done)
    }

    fn tell_run(&self, id: &ContainerId, run_no: u64, command: Command, patience: Duration) -> Result<bool> {
        if !self.has_shim(id)? {
            return Ok(false);
        }
        let request = Request {
            run_no: Some(run_no),
            ..Request::new(command)
        };
        match self.ask(id, &request, patience) {
            Ok(reply) if matches!(reply.answer, Answer::Stale(_)) => Ok(false),
            Ok(reply) if reply.state.payload.is_none() && reply.answer != Answer::Done => Ok(false),
            Ok(reply) => done(id, reply).map(|_| true),
            Err(e) if is_passing(&e) => Ok(false),
            Err(e) => Err(RuntimeError::silent(id)(e)),
        }
    }

    /// The payload as its shim knows it, asked and not read from a file: a shim in the middle of a start answers when
    /// that is over, and what starts later finds the files of now.
    fn payload(&self, id: &ContainerId) -> Result<Option<Process>> {
        let give_up = Instant::now() + PASSING;
        while self.has_shim(id)? {
            match self.ask(id, &Request::new(Command::Status), PATIENCE) {
                Ok(reply) => return Ok(reply.state.payload),
                Err(e) if is_passing(&e) && Instant::now() < give_up => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(e) => return Err(RuntimeError::silent(id)(e)),
            }
        }
        Ok(None)
    }

    fn exchange(&self, id: &ContainerId, request: &Refresh) -> Result<Refreshed> {
        let failed = |e: io::Error| contents(id, format!("asking {}: {e}", self.exe.display()));
        let text = serde_json::to_vec(request).map_err(|e| failed(e.into()))?;
        let mut child = detach::command(&self.exe)
            .arg("refresh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ended early says why on its output.
            let _ = stdin.write_all(&text);
        }
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        let give_up = Instant::now() + EXCHANGE;
        let late = loop {
            let left = give_up.saturating_duration_since(Instant::now());
            match (&pidfd, child.try_wait()) {
                (Ok(pidfd), Ok(None)) if !left.is_zero() => ended(pidfd, left),
                (Ok(_), Ok(None)) => break true,
                _ => break false,
            }
        };
        if late {
            // One that has ended meanwhile is as good.
            let _ = child.kill();
        }
        let status = child.wait().map_err(failed)?;
        if late {
            let why = format!("the container kept it waiting for more than {EXCHANGE:?}");
            return Ok(Refreshed::Failed(why));
        }
        let mut answer = Vec::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_end(&mut answer).map_err(failed)?;
        }
        serde_json::from_slice(&answer)
            .map_err(|e| contents(id, format!("it gave no answer ({status}): {e}")))
    }
}

/// Removes the files that no mount needs any more. Gives how many mounts were exchanged.
fn settle(contents: &Path, files: &[Shown], found: &[Found]) -> Result<usize> {
    let old = retired::directory(contents);
    for (file, found) in files.iter().zip(found) {
        let name = file.source.file_name().and_then(|name| name.to_str());
        let name = name.unwrap_or_default();
        retired::settle(&old, name, *found)?;
    }
    Ok(found.iter().filter(|found| **found != Found::Same).count())
}

fn contents(id: &ContainerId, why: String) -> RuntimeError {
    let id = id.clone();
    RuntimeError::Contents { id, why }
}
