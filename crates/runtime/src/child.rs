//! A short-lived child of ours: a request on standard input, the answer on standard output.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::embedded::Doing;
use crate::launch::LaunchError;

/// All such a child does: what `act` makes of the request, or `refused` of why it did not.
pub(crate) fn answer<Q: DeserializeOwned, A: Serialize>(
    act: impl FnOnce(&Q) -> Result<A, LaunchError>,
    refused: impl FnOnce(LaunchError) -> A,
) -> ExitCode {
    let answer = request()
        .and_then(|request| act(&request))
        .unwrap_or_else(refused);
    let written = serde_json::to_vec(&answer)
        .map_err(io::Error::from)
        .and_then(|text| io::stdout().write_all(&text));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn request<Q: DeserializeOwned>() -> Result<Q, LaunchError> {
    let what = || "reading the request".to_owned();
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text).doing(what)?;
    serde_json::from_slice(&text).doing(what)
}
