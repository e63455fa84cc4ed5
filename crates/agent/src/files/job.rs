//! The agent's side: one child and what goes between.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use model::action::Instance;
use runtime::client::RuntimeError;
use storage::files::PathStat;

use super::{Head, Order, Refused, Task, Why, receive, send};
use crate::execute::chain;
use crate::host::Host;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{}", .0.text)]
    Refused(Refused),
    #[error("{}", chain(.0))]
    Runtime(#[source] RuntimeError),
    #[error("container {name}: its files cannot be worked on: {why}")]
    Child { name: String, why: String },
}

/// A child at work. Dropped, it is killed.
#[derive(Debug)]
pub struct Job {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// None where the answer is only that it can be done.
    stat: Option<PathStat>,
}

impl Job {
    /// Has something done with an instance's files; returns as soon as it is known that it can be. Blocking.
    ///
    /// # Errors
    /// It cannot be done, or there is no such container.
    pub fn begin(host: &Host, i: &Instance, task: &Task) -> Result<Self, Failure> {
        let mut tries = 0;
        loop {
            let view = host.runtime.view(i).map_err(Failure::Runtime)?;
            let writes = matches!(task, Task::Extract { .. });
            let gate = match writes && !view.is_running() {
                true => host.runtime.hold_stopped(i).map_err(Failure::Runtime)?,
                false => None,
            };
            let order = Order {
                view,
                task: task.clone(),
            };
            let begun = Self::begin_with(host, i.name.as_str(), &order, gate);
            tries += 1;
            // It was started, or ended, between the look and the work.
            let moved = || {
                host.runtime
                    .view(i)
                    .is_ok_and(|now| now.place != order.view.place)
            };
            match begun {
                Err(Failure::Refused(Refused { why: Why::Failed, .. })) if tries < 5 && moved() => {}
                begun => return begun,
            }
        }
    }

    fn begin_with(host: &Host, name: &str, order: &Order, gate: Option<OwnedFd>) -> Result<Self, Failure> {
        let failed = |e: io::Error| Failure::Child {
            name: name.to_owned(),
            why: e.to_string(),
        };
        let mut program = host.runtime.files_program();
        program.stdin(Stdio::piped()).stdout(Stdio::piped());
        // What keeps the container from being started goes with the child, and lasts as long as that: longer than this
        // agent, should that be killed. Nothing is said on it.
        program.stderr(gate.map_or_else(Stdio::piped, Stdio::from));
        let mut child = program.spawn().map_err(failed)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(io::ErrorKind::BrokenPipe.into()));
        };
        let mut job = Self {
            name: name.to_owned(),
            child,
            input: Some(input),
            output: BufReader::with_capacity(128 * 1024, output),
            stat: None,
        };
        if let Some(input) = &mut job.input {
            // A child that ended early says why on its output.
            drop(send(input, order));
        }
        if !matches!(order.task, Task::Extract { .. }) {
            job.input = None;
        }
        job.stat = job.head()?;
        Ok(job)
    }

    /// What the path leads to, where that was asked.
    pub fn stat(&self) -> Option<&PathStat> {
        self.stat.as_ref()
    }

    fn head(&mut self) -> Result<Option<PathStat>, Failure> {
        match receive(&mut self.output) {
            Ok(Head::Stat(stat)) => Ok(Some(stat)),
            Ok(Head::Ready) => Ok(None),
            Ok(Head::Refused(refused)) => Err(Failure::Refused(refused)),
            Err(e) => Err(self.broke_off(&e)),
        }
    }

    /// Sends the archive, and waits until all of it is in its place.
    pub fn send(mut self, archive: &mut dyn Read) -> Result<(), Failure> {
        let sent = match self.input.take() {
            Some(mut input) => copy(archive, &mut input),
            None => Ok(()),
        };
        // A child that takes no more says why. One that was sent only a part is not to take it for the whole.
        match sent {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Child {
                name: self.name.clone(),
                why: e.to_string(),
            }),
            _ => self.head().map(drop),
        }
    }

    /// What the child writes, to its end; an error where it did not get there.
    pub fn reader(self) -> JobReader {
        JobReader(self)
    }

    fn broke_off(&mut self, error: &io::Error) -> Failure {
        // It has ended, or is of no use.
        drop(self.child.kill());
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            drop(stderr.take(4096).read_to_string(&mut text));
        }
        let why = match text.trim() {
            "" => error.to_string(),
            text => text.to_owned(),
        };
        Failure::Child {
            name: self.name.clone(),
            why,
        }
    }
}

/// Not to the last byte where the sender breaks off: its error is told and the child sees no end.
fn copy(archive: &mut dyn Read, input: &mut ChildStdin) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match archive.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => input.write_all(&buffer[..read])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        drop(self.input.take());
        // One that has ended already is only waited for.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A job's output.
#[derive(Debug)]
pub struct JobReader(Job);

impl Read for JobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.output.read(buffer)?;
        if read > 0 || buffer.is_empty() {
            return Ok(read);
        }
        match self.0.child.wait()?.success() {
            true => Ok(0),
            false => Err(io::Error::other(
                self.0.broke_off(&io::Error::other("it ended early")).to_string(),
            )),
        }
    }
}
