//! The stock docker client on a host's socket.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::Host;
use crate::client::Said;
use crate::engines::program;

/// The client that is installed, or the one unpacked by `./test`.
pub fn client() -> PathBuf {
    program("docker", "docker-cli")
}

impl Host {
    /// A `docker` command.
    pub fn docker_command(&self) -> Command {
        let mut command = self.ns.command(client());
        command
            .env(
                "DOCKER_HOST",
                format!("unix://{}/wharf.sock", self.run_dir().display()),
            )
            .env("DOCKER_CONFIG", self.dir().join("docker"))
            .env_remove("DOCKER_CONTEXT")
            .stdin(Stdio::null());
        command
    }

    /// Runs `docker ARGS…`.
    pub fn docker<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Said {
        let out = self.docker_command().args(args).output();
        Said::from(out.expect("./test unpacks a docker client"))
    }
}
