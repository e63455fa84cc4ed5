//! Control groups on this machine's own hierarchies, below a parent of the test's own.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::process::{Child, Command};

use runtime::cgroup::{CgroupSet, Hierarchies, PAYLOAD, SHIM, list};

/// Removes what the test made, whatever became of it.
struct Parent(String);

impl Drop for Parent {
    fn drop(&mut self) {
        let (above, name) = self.0.rsplit_once('/').unwrap();
        let group = CgroupSet::new(&Hierarchies::detect().unwrap(), above, name);
        let _ = group.kill_all();
        let _ = group.remove();
    }
}

fn sleeper() -> Child {
    Command::new("/bin/sleep").arg("1000").spawn().unwrap()
}

#[test]
fn a_group_is_made_entered_emptied_and_removed() {
    let hierarchies = Hierarchies::detect().unwrap();
    let parent = Parent(format!("/wharf-test-cg-{}", std::process::id()));
    let group = CgroupSet::new(&hierarchies, &parent.0, "web-0123456789ab");
    let (payload, shim) = (group.child(PAYLOAD), group.child(SHIM));
    payload.create().unwrap();
    shim.create().unwrap();
    payload.create().unwrap();
    assert_eq!(list(&hierarchies, &parent.0).unwrap(), ["web-0123456789ab"]);
    let (mut inside, mut beside) = (sleeper(), sleeper());
    payload.enter(inside.id().cast_signed()).unwrap();
    shim.enter(beside.id().cast_signed()).unwrap();
    assert!(payload.pids().unwrap().contains(&inside.id().cast_signed()));
    assert_eq!(group.pids().unwrap().len(), 2);
    payload.kill_all().unwrap();
    assert!(!inside.wait().unwrap().success());
    assert!(
        beside.try_wait().unwrap().is_none(),
        "the shim was killed as well"
    );
    group.kill_all().unwrap();
    beside.wait().unwrap();
    group.remove().unwrap();
    group.remove().unwrap();
    assert!(!group.exists());
    assert!(list(&hierarchies, &parent.0).unwrap().is_empty());
}

#[test]
fn a_group_that_never_was_is_empty_and_gone() {
    let hierarchies = Hierarchies::detect().unwrap();
    let group = CgroupSet::new(&hierarchies, "/wharf-test-never", "x");
    assert!(group.pids().unwrap().is_empty());
    group.kill_all().unwrap();
    group.remove().unwrap();
    assert!(list(&hierarchies, "/wharf-test-never").unwrap().is_empty());
}
