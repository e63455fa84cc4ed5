//! What the name server's tests execute: `dns` as the product's binary has it, and `agent RUN_DIR`, an agent that gives
//! a name server the state it reads from standard input, says so, and then waits to be killed.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|a| a.to_str()) {
        Some("dns") => net::dns::main(),
        Some("relay") => net::relay::main(),
        Some("agent") => match agent(args.next().unwrap_or_default().as_ref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("error: {e}");
                ExitCode::FAILURE
            }
        },
        other => {
            eprintln!("error: not something this program is for: {other:?}");
            ExitCode::FAILURE
        }
    }
}

fn agent(run_dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let server = net::dns::NameServer::new(run_dir, &std::env::current_exe()?);
    server.apply(&serde_json::from_str(&line)?, &|_| Ok(None))?;
    println!("applied");
    // Until the end of the test, which is the end of the stream, or a kill.
    std::io::stdin().read_line(&mut line)?;
    Ok(())
}
