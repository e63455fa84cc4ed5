//! Bringing contents into a container: before it starts, and while it runs.

use std::collections::BTreeMap;

use model::action::Instance;
use model::content::{ContentKey, ContentState, Then, differ, keys_of};
use model::links;
use runtime::shim::files::Stage;

use super::Parcel;
use crate::execute::chain;
use crate::host::Host;

/// Has the files of a container that is about to be prepared or started be what their sources hold now. One whose
/// payload was begun already is left alone: what it lacks is planned.
pub fn give(host: &Host, instance: &Instance) -> Result<(), String> {
    if keys_of(&instance.spec).next().is_none() && instance.links.is_empty() {
        return Ok(());
    }
    let state = host.runtime.shim_state(&instance.id).map_err(chain)?;
    if state.is_some_and(|state| state.stage != Stage::Created) {
        return Ok(());
    }
    host.contents.note_environment(instance)?;
    if instance.contents.is_empty() && instance.links.is_empty() {
        return Ok(());
    }
    let parcel = host.contents.parcel(instance)?;
    bring(host, instance, &parcel)?;
    note(host, instance, parcel.states, None)
}

/// Brings a running container what changed, and does what then follows. That its files change is noted first, and last
/// what was done: cut off anywhere, it is done again, also where the sources are changed back meanwhile.
pub fn renew(
    host: &Host,
    instance: &Instance,
    planned: &BTreeMap<ContentKey, ContentState>,
    run_no: u64,
    then: &Then,
) -> Result<(), String> {
    let id = &instance.id;
    let parcel = host.contents.parcel(instance)?;
    let others = |(key, state): (&ContentKey, &ContentState)| {
        let planned = planned.get(key);
        planned.is_none_or(|p| p.file != state.file || differ(&p.fingerprint, &state.fingerprint))
    };
    if parcel.states.iter().any(others) {
        // What changed once more may ask for something else: that wakes the loop as well.
        tracing::debug!(container = %instance.name, "the contents changed since they were looked at");
        return Ok(());
    }
    host.contents
        .doubt(id, &parcel.states, &links::lines(&instance.links))
        .map_err(|e| not_noted(instance, e))?;
    bring(host, instance, &parcel)?;
    match then {
        Then::Nothing => {
            host.runtime.refresh_contents(id).map_err(chain)?;
            note(host, instance, parcel.states, None)
        }
        Then::Signal { signals } => {
            host.runtime.refresh_contents(id).map_err(chain)?;
            for signal in signals {
                if !host.runtime.signal(id, run_no, signal).map_err(chain)? {
                    // That run is over, and the next one may have begun before the files were there: nothing is noted,
                    // so that it is told as well.
                    return Ok(());
                }
            }
            note(host, instance, parcel.states, None)
        }
        Then::Restart { signal, grace } => {
            // A run that began while the files were being written counts as one that lacks them.
            let state = host.runtime.shim_state(id).map_err(chain)?;
            let outdated = state.map_or(run_no, |state| state.run_no);
            note(host, instance, parcel.states, Some(outdated))?;
            let done = host.runtime.restart_run(id, outdated, signal, *grace);
            done.map(drop).map_err(chain)
        }
    }
}

/// Everything into its place.
fn bring(host: &Host, instance: &Instance, parcel: &Parcel) -> Result<(), String> {
    if !instance.links.is_empty() {
        host.runtime.renew_hosts(instance).map_err(chain)?;
    }
    if instance.contents.is_empty() {
        return Ok(());
    }
    host.runtime.deliver(&instance.id, &parcel.files).map_err(chain)
}

fn note(
    host: &Host,
    instance: &Instance,
    states: BTreeMap<ContentKey, ContentState>,
    outdated: Option<u64>,
) -> Result<(), String> {
    host.contents
        .note(&instance.id, states, links::lines(&instance.links), outdated)
        .map_err(|e| not_noted(instance, e))
}

fn not_noted(instance: &Instance, e: std::io::Error) -> String {
    format!("cannot note in the run dir what {} was given: {e}", instance.name)
}
