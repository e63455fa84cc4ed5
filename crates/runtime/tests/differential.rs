//! The same bundle through the embedded runtime and through runc and crun: what the container sees must be the same,
//! but for a committed list with a reason each (`differential-allowed.toml`).

#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use model::spec::{RuntimeChoice, TmpfsMount, Ulimit};
use serde::Deserialize;
use support::{Container, compile};

/// Prints `KEY=VALUE` lines about all that a container is.
const LOOK: &str = r#"
sed -n -E 's/^(Umask|TracerPid|Uid|Gid|FDSize|Groups|Sig...|Shd...|Cap...|NoNewPrivs|Seccomp|Seccomp_filters|Cpus_allowed|Mems_allowed|Speculation_[A-Za-z_]*):[\t ]*/status.\1=/p' /proc/self/status
while read -r id parent dev root at flags rest; do
    case "$rest" in "- "*) tags=; tail=${rest#- };; *) tags=${rest%% - *}; tail=${rest#* - };; esac
    echo "mount $at=$root $flags $tags $tail"
done < /proc/self/mountinfo
sed -E 's/ {2,}/|/g' /proc/self/limits | while IFS='|' read -r name soft hard unit; do echo "limit $name=$soft $hard"; done
for fd in /proc/1/fd/*; do echo "fd ${fd##*/}=$(readlink $fd)"; done
find /dev | while read -r f; do
    if [ -L $f ]; then echo "dev $f=-> $(readlink $f)"; else echo "dev $f=$(stat -c '%A %t:%T %u:%g' $f)"; fi
done
for d in /proc /sys; do for f in $d/*; do
    case ${f##*/} in [0-9]*) ;; *) echo "entry $f=$(stat -c '%A %u:%g' $f)";; esac
done; done
for f in /etc/hosts /etc/hostname /etc/resolv.conf / /tmp /run /data; do echo "file $f=$(stat -c '%A %u:%g' $f 2>&1)"; done
env | sed -E 's/^([^=]*)=/env \1=/'
echo "uts node=$(uname -n)"; echo "uts domain=$(cat /proc/sys/kernel/domainname)"
echo "id=$(id)"; echo "pwd=$(pwd)"; echo "umask=$(umask)"
echo "oom=$(cat /proc/self/oom_score_adj)"; echo "slack=$(cat /proc/self/timerslack_ns 2>&1)"
echo "sid=$(cut -d' ' -f5,6,7,8 /proc/1/stat)"; echo "args=$(head -c 7 /proc/1/cmdline)"
sed -E 's/^[0-9]+:([^:]*):/cgroup \1=/' /proc/self/cgroup
echo "net=$(ls /sys/class/net | tr '\n' ' ')"
echo "personality=$(cat /proc/self/personality 2>&1)"
/bin/calls | sed 's/ /=/; s/^/call /'
"#;

const CALLS: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
/* What each system call answers to arguments that are never good: the filter's word, or the kernel's. */
int main(void) {
    for (long n = 0; n < 470; n++) {
        if (n >= 335 && n < 424) continue;
        pid_t child = fork();
        if (child == 0) {
            alarm(1);
            close(0); close(1); close(2);
            long r = syscall(n, -1L, -1L, -1L, -1L, -1L, -1L);
            _exit(r < 0 ? (errno == EPERM ? 1 : errno == ENOSYS ? 2 : 3) : 3);
        }
        int status;
        waitpid(child, &status, 0);
        if (WIFEXITED(status) && WEXITSTATUS(status) < 3)
            printf("%ld %s\n", n, WEXITSTATUS(status) == 1 ? "EPERM" : "ENOSYS");
        else
            printf("%ld allowed\n", n);
    }
    return 0;
}
"#;

#[derive(Deserialize)]
struct Allowed {
    difference: Vec<Difference>,
}

/// One committed difference. `key` may end in `*`.
#[derive(Deserialize)]
struct Difference {
    runtime: Vec<String>,
    key: String,
    reason: String,
    #[serde(default)]
    sometimes: bool,
}

impl Difference {
    fn covers(&self, key: &str) -> bool {
        match self.key.strip_suffix('*') {
            Some(start) => key.starts_with(start),
            None => key == self.key,
        }
    }
}

fn container(user: Option<&str>) -> Container {
    let container = Container::sh(LOOK);
    compile(CALLS, &container.image().join("bin/calls"));
    container.with(|s| {
        s.user = user.map(str::to_owned);
        s.working_dir = Some("/srv".into());
        s.env = BTreeMap::from([("A".into(), "x y".into())]);
        s.tmpfs = vec![TmpfsMount {
            target: "/data".into(),
            size: Some(65536),
            mode: None,
        }];
        let limit = Ulimit {
            soft: Some(100),
            hard: Some(200),
        };
        s.ulimits = BTreeMap::from([("nofile".into(), limit)]);
    })
}

/// What it sees, with what differs from run to run taken out.
fn seen(container: &Container) -> BTreeMap<String, String> {
    let ran = container.run();
    assert_eq!(ran.code, 0, "{ran:?}");
    let dir = container.image().parent().unwrap().display().to_string();
    let mut seen = BTreeMap::new();
    for line in ran.stdout.lines() {
        let Some((key, value)) = line.split_once('=') else {
            panic!("{line:?}");
        };
        let value = value.replace(&dir, "DIR").replace(container.parent(), "PARENT");
        let value = match key.starts_with("fd ") {
            true => value.split(':').next().unwrap().to_owned(),
            false => value,
        };
        let mut words: Vec<&str> = value.split(' ').collect();
        let mut options: Vec<String> = Vec::new();
        if key.starts_with("mount ") {
            // The order of options is the kernel's affair.
            for word in &mut words {
                let mut parts: Vec<&str> = word.split(',').collect();
                parts.sort_unstable();
                options.push(parts.join(","));
            }
        }
        let value = if options.is_empty() {
            value.clone()
        } else {
            options.join(" ")
        };
        seen.insert(key.to_owned(), value);
    }
    seen
}

fn compare(runtime: &str, user: Option<&str>) {
    let ours = seen(&container(user));
    let theirs = seen(&container(user).with(|s| s.runtime = RuntimeChoice::External(runtime.to_owned())));
    let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let differ: Vec<&String> = keys
        .into_iter()
        .filter(|k| ours.get(*k) != theirs.get(*k))
        .collect();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential-allowed.toml");
    let allowed: Allowed = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let allowed: Vec<Difference> = allowed
        .difference
        .into_iter()
        .filter(|d| d.runtime.iter().any(|r| r == runtime))
        .collect();
    assert!(allowed.iter().all(|d| d.reason.len() > 10));
    let unexplained: Vec<String> = differ
        .iter()
        .filter(|k| !allowed.iter().any(|a| a.covers(k)))
        .map(|k| {
            format!(
                "{k}\n    embedded: {:?}\n    {runtime}: {:?}",
                ours.get(*k),
                theirs.get(*k)
            )
        })
        .collect();
    assert!(
        unexplained.is_empty(),
        "not in the list of allowed differences:\n{}",
        unexplained.join("\n")
    );
    let stale: Vec<&String> = allowed
        .iter()
        .filter(|a| !a.sometimes && !differ.iter().any(|k| a.covers(k)))
        .map(|a| &a.key)
        .collect();
    assert!(stale.is_empty(), "allowed but no longer different: {stale:?}");
}

#[test]
fn a_container_of_root_is_the_same_under_runc() {
    compare("runc", None);
}

#[test]
fn a_container_of_another_user_is_the_same_under_runc() {
    compare("runc", Some("www"));
}

#[test]
fn a_container_of_root_is_the_same_under_crun() {
    compare("crun", None);
}

#[test]
fn failing_under_an_external_runtime_has_the_same_codes() {
    for runtime in ["runc", "crun"] {
        let ran = Container::new(&["/no/such"]).external(runtime).run_unchecked();
        assert_eq!(ran.code, 127, "{ran:?}");
        let ran = Container::new(&["/etc/passwd"]).external(runtime).run_unchecked();
        assert_eq!(ran.code, 126, "{ran:?}");
        let ran = Container::sh("exit 7").external(runtime).run();
        assert_eq!(ran.code, 7, "{ran:?}");
    }
    let ran = Container::sh("true").external("no-such-runtime").run_unchecked();
    assert_eq!(ran.code, 125, "{ran:?}");
    assert!(ran.stderr.contains("is not installed on this host"), "{ran:?}");
}
