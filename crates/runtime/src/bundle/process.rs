//! The process: what is run, as whom, with which environment, rights and limits.

use std::collections::BTreeSet;
use std::path::PathBuf;

use model::action::Instance;
use model::spec::ContainerSpec;
use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, ProcessBuilder, UserBuilder,
};

use super::{BundleError, BundleInput, Failed};

/// Docker's default capabilities.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub fn process(input: &BundleInput<'_>, hostname: &str) -> Result<Process, Failed> {
    let user = input.user;
    let spec = &input.instance.spec;
    let mut oci_user = UserBuilder::default().uid(user.uid).gid(user.gid).umask(0o022u32);
    if !user.additional_gids.is_empty() {
        oci_user = oci_user.additional_gids(user.additional_gids.clone());
    }
    let mut process = ProcessBuilder::default()
        .terminal(false)
        .user(oci_user.build()?)
        .args(checked(input, "the command", arguments(input)?)?)
        .env(checked(
            input,
            "an environment variable",
            environment(input, hostname)?,
        )?)
        .cwd(working_dir(input.instance))
        .capabilities(oci_capabilities(input)?)
        .no_new_privileges(spec.no_new_privileges)
        .oom_score_adj(0)
        .build()?;
    let rlimits = rlimits(input)?;
    process.set_rlimits((!rlimits.is_empty()).then_some(rlimits));
    Ok(process)
}

fn checked(
    input: &BundleInput<'_>,
    what: &'static str,
    texts: Vec<String>,
) -> Result<Vec<String>, BundleError> {
    if texts.iter().any(|t| t.contains('\0')) {
        let container = input.instance.name.to_string();
        return Err(BundleError::Nul { container, what });
    }
    Ok(texts)
}

/// `entrypoint` replaces the image's and clears its Cmd; `command` replaces its Cmd.
fn arguments(input: &BundleInput<'_>) -> Result<Vec<String>, BundleError> {
    let args = command_line(&input.instance.spec, &input.instance.image.config);
    if args.is_empty() || args[0].is_empty() {
        return Err(BundleError::NoCommand(input.instance.name.to_string()));
    }
    Ok(args)
}

/// What is run: entrypoint and command joined.
pub fn command_line(spec: &ContainerSpec, image: &model::image::ImageConfig) -> Vec<String> {
    let (entrypoint, cmd) = match &spec.entrypoint {
        Some(own) => (own, &Vec::new()),
        None => (&image.entrypoint, &image.cmd),
    };
    let command = spec.command.as_ref().unwrap_or(cmd);
    entrypoint.iter().chain(command).cloned().collect()
}

/// Where it is run: absolute.
pub fn working_dir(instance: &Instance) -> String {
    let image = &instance.image.config;
    let dir = instance.spec.working_dir.as_ref().or(image.working_dir.as_ref());
    match dir.map(String::as_str) {
        None | Some("") => "/".to_owned(),
        Some(dir) if dir.starts_with('/') => dir.to_owned(),
        Some(dir) => format!("/{dir}"),
    }
}

/// The PATH a command is looked up in.
pub fn search_path(instance: &Instance, env_files: &[(PathBuf, String)]) -> String {
    let path = |entry: &str| entry.strip_prefix("PATH=").map(str::to_owned);
    let lines = |text: &str| text.lines().rev().find_map(path);
    let table = instance.spec.env.get("PATH").cloned();
    let file = || env_files.iter().rev().find_map(|(_, text)| lines(text));
    let image = || instance.image.config.env.iter().rev().find_map(|e| path(e));
    table
        .or_else(file)
        .or_else(image)
        .or_else(|| path(DEFAULT_PATH))
        .unwrap_or_default()
}

/// Docker's order: PATH and HOSTNAME, those of links, the image's, env_file, env (each overriding in place), then HOME if
/// still unset.
fn environment(input: &BundleInput<'_>, hostname: &str) -> Result<Vec<String>, BundleError> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    let spec = &input.instance.spec;
    for link in &input.instance.links {
        link.variables(&input.instance.name)
            .into_iter()
            .for_each(|entry| set(&mut env, entry));
    }
    for entry in &input.instance.image.config.env {
        set(&mut env, entry.clone());
    }
    for (file, text) in &input.host.env_files {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once('=') {
                Some((name, _)) if !name.is_empty() && !name.contains(char::is_whitespace) => {
                    set(&mut env, line.to_owned())
                }
                _ => {
                    return Err(BundleError::EnvFile {
                        container: input.instance.name.to_string(),
                        file: file.clone(),
                        line: number + 1,
                        text: line.to_owned(),
                    });
                }
            }
        }
    }
    for (name, value) in &spec.env {
        set(&mut env, format!("{name}={value}"));
    }
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        let home = if input.user.home.is_empty() {
            "/"
        } else {
            &input.user.home
        };
        env.push(format!("HOME={home}"));
    }
    Ok(env)
}

/// Sets a variable, where it already stands if it does.
fn set(env: &mut Vec<String>, entry: String) {
    let name = |e: &str| e.split('=').next().unwrap_or_default().to_owned();
    let wanted = name(&entry);
    match env.iter_mut().find(|e| name(e) == wanted) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

/// The capabilities a container has, by Docker's rules for `cap_add`, `cap_drop` and `privileged`.
pub fn capabilities(input: &BundleInput<'_>) -> Result<BTreeSet<String>, BundleError> {
    let (spec, here) = (&input.instance.spec, &input.host.capabilities);
    let all = |list: &[String]| list.iter().any(|c| c == "ALL");
    for capability in spec.cap_add.iter().filter(|c| *c != "ALL") {
        known(input, capability)?;
        if !here.contains(capability) {
            return Err(BundleError::MissingCapability {
                container: input.instance.name.to_string(),
                capability: capability.clone(),
            });
        }
    }
    for capability in spec.cap_drop.iter().filter(|c| *c != "ALL") {
        known(input, capability)?;
    }
    let dropped = |c: &String| spec.cap_drop.contains(c);
    if spec.privileged {
        return Ok(here.clone());
    }
    if all(&spec.cap_add) {
        return Ok(here.iter().filter(|c| !dropped(c)).cloned().collect());
    }
    let base = DEFAULT_CAPABILITIES.iter().map(|&c| c.to_owned());
    let kept = base.filter(|c| here.contains(c) && !all(&spec.cap_drop) && !dropped(c));
    Ok(kept.chain(spec.cap_add.iter().cloned()).collect())
}

fn known(input: &BundleInput<'_>, capability: &str) -> Result<Capability, BundleError> {
    capability.parse().map_err(|_| BundleError::UnknownCapability {
        container: input.instance.name.to_string(),
        capability: capability.to_owned(),
    })
}

/// Permitted and effective are empty for users other than root, as execve(2) would make them; nothing is inheritable.
fn oci_capabilities(input: &BundleInput<'_>) -> Result<LinuxCapabilities, Failed> {
    let names = capabilities(input)?;
    let set = names
        .iter()
        .map(|c| known(input, c))
        .collect::<Result<Capabilities, _>>()?;
    let held = if input.user.uid == 0 {
        set.clone()
    } else {
        Capabilities::new()
    };
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set)
        .effective(held.clone())
        .permitted(held)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()?)
}

const ULIMITS: &[(&str, PosixRlimitType)] = &[
    ("as", PosixRlimitType::RlimitAs),
    ("core", PosixRlimitType::RlimitCore),
    ("cpu", PosixRlimitType::RlimitCpu),
    ("data", PosixRlimitType::RlimitData),
    ("fsize", PosixRlimitType::RlimitFsize),
    ("locks", PosixRlimitType::RlimitLocks),
    ("memlock", PosixRlimitType::RlimitMemlock),
    ("msgqueue", PosixRlimitType::RlimitMsgqueue),
    ("nice", PosixRlimitType::RlimitNice),
    ("nofile", PosixRlimitType::RlimitNofile),
    ("nproc", PosixRlimitType::RlimitNproc),
    ("rss", PosixRlimitType::RlimitRss),
    ("rtprio", PosixRlimitType::RlimitRtprio),
    ("rttime", PosixRlimitType::RlimitRttime),
    ("sigpending", PosixRlimitType::RlimitSigpending),
    ("stack", PosixRlimitType::RlimitStack),
];

fn rlimits(input: &BundleInput<'_>) -> Result<Vec<PosixRlimit>, Failed> {
    let mut limits = Vec::new();
    for (name, limit) in &input.instance.spec.ulimits {
        let Some((_, kind)) = ULIMITS.iter().find(|(known, _)| known == name) else {
            return Err(Failed::Bundle(BundleError::UnknownUlimit {
                container: input.instance.name.to_string(),
                name: name.clone(),
                known: ULIMITS.iter().map(|u| u.0).collect::<Vec<_>>().join(", "),
            }));
        };
        limits.push(
            PosixRlimitBuilder::default()
                .typ(*kind)
                .soft(limit.soft.unwrap_or(u64::MAX))
                .hard(limit.hard.unwrap_or(u64::MAX))
                .build()?,
        );
    }
    Ok(limits)
}
