//! Images made on the spot: layouts and archives written here, byte by byte, without anybody's tools.

pub mod builder;
pub mod layer;
pub mod write;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub use builder::ImageBuilder;
pub use layer::{Compression, LayerBuilder};

use crate::binary::repository;
use crate::{Host, binary};

/// The quickstart's program, compiled once: an HTTP and UDP server that says who and how often.
pub fn hello_program() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| compile("hello", "examples/quickstart/hello.c"))
}

/// A server that ends as servers should, with connections that are kept, and UDP; see its source.
pub fn patient_program() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| compile("patient", "crates/tests/images/patient.c"))
}

/// Kept beside the test's own executable, by the digest of its source.
fn compile(name: &str, source: &str) -> PathBuf {
    let source = repository().join(source);
    let digest = write::sha256(&std::fs::read(&source).unwrap());
    let program = std::env::current_exe()
        .unwrap()
        .with_file_name(format!("{name}-{}", &digest[..16]));
    if !program.exists() {
        let fresh = program.with_extension(std::process::id().to_string());
        let status = Command::new("gcc")
            .args(["-static", "-O2", "-s", "-o"])
            .arg(&fresh)
            .arg(&source)
            .status();
        assert!(
            status.is_ok_and(|s| s.success()),
            "gcc cannot compile {} (gcc and libc6-dev?)",
            source.display()
        );
        std::fs::rename(fresh, &program).unwrap();
    }
    program
}

/// An image whose only program is [`hello_program`], listening on port 80.
pub fn hello() -> ImageBuilder {
    let layer = LayerBuilder::new()
        .dir("tmp", 0o1777)
        .file_from("hello", 0o755, hello_program());
    ImageBuilder::new()
        .layer(layer)
        .entrypoint(&["/hello"])
        .expose("80/tcp")
}

/// An image whose only program is [`patient_program`], listening on port 80.
pub fn patient() -> ImageBuilder {
    let layer = LayerBuilder::new()
        .dir("tmp", 0o1777)
        .file_from("patient", 0o755, patient_program());
    ImageBuilder::new().layer(layer).entrypoint(&["/patient"])
}

/// An image of Debian's static busybox with links for all its tools.
pub fn busybox() -> ImageBuilder {
    let mut layer = LayerBuilder::new()
        .dir("bin", 0o755)
        .file_from("bin/busybox", 0o755, "/bin/busybox");
    let tools = Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .expect("busybox-static is installed by ./test");
    for tool in String::from_utf8(tools.stdout)
        .unwrap()
        .lines()
        .filter(|t| *t != "busybox")
    {
        layer = layer.symlink(&format!("bin/{tool}"), "busybox");
    }
    let etc = [
        (
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n",
        ),
        ("etc/group", "root:x:0:\nuser:x:1000:\n"),
    ];
    layer = etc.iter().fold(layer.dir("etc", 0o755), |l, (path, text)| {
        l.file(path, 0o644, text.as_bytes())
    });
    layer = ["home", "root", "srv", "tmp", "var"]
        .iter()
        .fold(layer, |l, dir| l.dir(dir, 0o755));
    ImageBuilder::new()
        .layer(layer)
        .cmd(&["/bin/sh"])
        .env("PATH=/bin")
}

/// nginx from Debian's package, put into archives by buildah and skopeo: (OCI archive, docker archive).
pub fn nginx() -> (PathBuf, PathBuf) {
    let script = repository().join("crates/tests/images/nginx.sh");
    let out = Command::new(&script)
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}", script.display()));
    assert!(
        out.status.success(),
        "{}: {}",
        script.display(),
        String::from_utf8_lossy(&out.stderr)
    );
    let dir = PathBuf::from(String::from_utf8(out.stdout).unwrap().lines().last().unwrap());
    (dir.join("nginx.oci.tar"), dir.join("nginx.docker.tar"))
}

/// An image of a real server from Debian's packages, as `tests/images/make` calls it; what to write behind `image =`.
pub fn server(name: &str) -> String {
    let make = repository().join("tests/images/make");
    let made = Command::new(make).arg(name).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    format!("oci-archive:{}", String::from_utf8(made.stdout).unwrap().trim())
}

impl Host {
    /// Writes the hello image as a layout; what to write behind `image =`.
    pub fn hello_image(&self) -> String {
        self.layout("hello", hello)
    }

    /// Writes the busybox image as a layout; what to write behind `image =`.
    pub fn busybox_image(&self) -> String {
        self.layout("busybox", busybox)
    }

    /// Writes any image as a layout.
    pub fn oci_dir(&self, name: &str, image: &ImageBuilder) -> String {
        self.layout(name, || image.clone())
    }

    /// Once: many containers of a host have the same image.
    fn layout(&self, name: &str, image: impl FnOnce() -> ImageBuilder) -> String {
        let dir = self.images_dir().join(name);
        if !dir.exists() {
            image().oci_dir(&dir);
        }
        format!("oci:{}", dir.display())
    }

    /// A container's table: the hello image, with these ports.
    pub fn hello_table(&self, name: &str, ports: &[&str]) -> String {
        let ports: Vec<String> = ports.iter().map(|p| format!("{p:?}")).collect();
        format!(
            "[container.{name}]\nimage = {:?}\nports = [{}]\n",
            self.hello_image(),
            ports.join(", ")
        )
    }
}

impl Host {
    /// A container's table: the busybox image running a line of shell, ended without ceremony (a shell that is pid 1
    /// ignores SIGTERM). `more` is appended: keys of the table, then tables below it.
    pub fn busybox_table(&self, name: &str, line: &str, more: &str) -> String {
        format!(
            "[container.{name}]\nimage = {:?}\ncommand = [\"sh\", \"-c\", {line:?}]\nstop_signal = \"SIGKILL\"\n{more}\n",
            self.busybox_image(),
        )
    }

    /// Writes that table into a file of its name.
    pub fn write_busybox(&self, name: &str, line: &str, more: &str) {
        self.write(&format!("{name}.toml"), &self.busybox_table(name, line, more));
    }

    /// A host whose agent keeps a container `box` that does nothing. `more` as for [`Host::busybox_table`].
    pub fn with_box(more: &str) -> Self {
        let mut host = Self::new();
        host.write_busybox("box", "exec sleep 1000", more);
        host.start_agent();
        host.converge();
        host
    }
}

/// The binary under test, for tests that run scripts.
pub fn wharf_bin() -> PathBuf {
    binary::wharf()
}
