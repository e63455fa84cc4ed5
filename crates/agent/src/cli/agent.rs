//! `wharf agent`: the daemon in the foreground, or one pass until all is as declared.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use detach::heap::Limits;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::info;

use super::{DONE, NOT_CONVERGED};
use crate::api;
use crate::engine::{Engine, Handle, Request, Wake};
use crate::places::Places;
use crate::report;
use crate::systemd::{self, Given, Notifier};

/// Every pass makes copies of what it looks at and lets go of them: without limits, glibc keeps the most that any took, in
/// an arena for each thread. In a single one the loop and its actions wait for each other: a quarter of the time until a
/// change of a thousand ports is in force.
const HEAP: Limits = Limits {
    arenas: 4,
    trim_threshold: 256 << 10,
    top_pad: 128 << 10,
    mmap_threshold: 128 << 10,
};

/// Runs until SIGTERM or SIGINT, or with `once` until converged.
pub fn run(places: Places, once: Option<Duration>) -> anyhow::Result<u8> {
    show_whose(&places)?;
    // While there is one thread.
    let given = systemd::receive()?;
    logging();
    if !rustix::process::geteuid().is_root() {
        bail!("the agent needs root: it makes namespaces, mounts and firewall rules");
    }
    detach::heap::keep_small(HEAP);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // Sessions and probes wait on threads of their own: the loop has to find one even beside a thousand of them.
        .max_blocking_threads(4096)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let code = runtime.block_on(async {
        match once {
            Some(limit) => converge(places, limit, given).await,
            None => serve(places, given).await,
        }
    });
    // Whatever is cut off here is taken up again by the next agent.
    runtime.shutdown_background();
    code
}

/// The environment tells whose process this is (INTERFACE §1), and a process's environment is what it was started
/// with: where the run dir came by a flag, start over with it in the environment.
fn show_whose(places: &Places) -> anyhow::Result<()> {
    if std::env::var_os("WHARF_RUN_DIR").as_deref() == Some(places.run_dir.as_os_str()) {
        return Ok(());
    }
    let error = Command::new("/proc/self/exe")
        .arg0("wharf")
        .args(std::env::args_os().skip(1))
        .env("WHARF_RUN_DIR", &places.run_dir)
        .exec();
    Err(error).context("cannot start over with WHARF_RUN_DIR set")
}

fn logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("WHARF_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

async fn serve(places: Places, given: Given) -> anyhow::Result<u8> {
    let socket = places.socket();
    let (mut engine, handle) = Engine::open(places)?;
    engine.tell(given.notifier.clone());
    let ours = given.api.is_none();
    let listener = given.api.map_or_else(|| api::bind(&socket), api::take_over)?;
    info!(socket = %socket.display(), version = env!("CARGO_PKG_VERSION"), "wharf agent is up");
    tokio::spawn(api::serve(listener, handle.clone()));
    let stop = on_signals(handle, given.notifier)?;
    engine.run(stop).await;
    let removed = if ours {
        std::fs::remove_file(&socket)
    } else {
        Ok(())
    };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).context("cannot remove the API socket")?
        }
        _ => {}
    }
    info!("wharf agent has stopped; containers keep running");
    Ok(DONE)
}

/// SIGTERM and SIGINT stop, SIGHUP reads everything anew.
fn on_signals(handle: Handle, notifier: Notifier) -> anyhow::Result<watch::Receiver<bool>> {
    let (stop, stopped) = watch::channel(false);
    let mut term = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut hup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = int.recv() => break,
                _ = hup.recv() => read_anew(&handle, &notifier).await,
            }
        }
        notifier.stopping();
        stop.send_replace(true);
    });
    Ok(stopped)
}

/// SIGHUP: as `wharf reload`, and whoever waits for the end of it is told.
async fn read_anew(handle: &Handle, notifier: &Notifier) {
    let (answer, done) = tokio::sync::oneshot::channel();
    notifier.reloading();
    let request = Request::Refresh { whole: true, answer };
    // Both fail only when the loop has ended, and this process with it.
    if handle.wakes.send(Wake::Request(request)).is_ok() && done.await.is_ok() {
        notifier.ready();
    }
}

/// `--once`: what was done goes to stdout, what is missing to stderr.
async fn converge(places: Places, limit: Duration, given: Given) -> anyhow::Result<u8> {
    let (engine, handle) = Engine::open(places)?;
    let (_, mut done) = handle.events.follow();
    let stop = on_signals(handle.clone(), given.notifier)?;
    let (end, ended) = watch::channel(false);
    let running = tokio::spawn(engine.run(ended));
    let code = tokio::select! {
        code = until_converged(handle.clone(), limit) => code,
        () = interrupted(stop) => bail!("interrupted; containers keep running"),
    };
    end.send_replace(true);
    running.await.context("the loop broke off")?;
    while let Ok(event) = done.try_recv() {
        println!("{} {}: {} ({})", event.kind, event.name, event.what, event.reason);
    }
    code
}

async fn interrupted(mut stop: watch::Receiver<bool>) {
    if stop.wait_for(|&s| s).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn until_converged(mut handle: Handle, limit: Duration) -> anyhow::Result<u8> {
    let converged = handle.snapshot.wait_for(|s| s.passes > 0 && s.status.converged);
    let reached = tokio::time::timeout(limit, converged)
        .await
        .map(|found| found.map(drop));
    match reached {
        Ok(found) => found.map(|()| DONE).context("the loop broke off"),
        Err(_) => {
            let snapshot = handle.snapshot.borrow().clone();
            for c in snapshot
                .status
                .containers
                .iter()
                .filter(|c| !reconciler::status::counts(c))
            {
                eprintln!("{}", report::why_not_converged(c));
            }
            for error in &snapshot.status.errors {
                eprintln!("{}: {}", error.at, error.message);
            }
            eprintln!(
                "error: not converged after {}",
                model::units::format_duration(limit)
            );
            Ok(NOT_CONVERGED)
        }
    }
}
