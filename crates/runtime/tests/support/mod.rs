//! A container for a test: an image of busybox, its bundle, its own control groups; all gone when dropped.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its part; helpers of tests

pub mod volumes;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use model::action::Instance;
use model::image::{Image, ImageConfig, ImageSource};
use model::name::ContainerId;
use model::spec::{ContainerSpec, RuntimeChoice};
use runtime::bundle::{self, Bundle, BundleInput, CONFIG, EXTRA};
use runtime::cgroup::{CgroupSet, Hierarchies};
use runtime::prepare::{self, Places, PrepareError};

pub const PROBE: &str = env!("CARGO_BIN_EXE_wharf-runtime-probe");

static COUNT: AtomicU32 = AtomicU32::new(0);

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

pub struct Container {
    dir: tempfile::TempDir,
    pub instance: Instance,
    parent: String,
}

impl Container {
    /// Runs a shell script.
    pub fn sh(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    pub fn new(command: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("image");
        busybox_image(&root);
        let source = ImageSource::Rootfs { dir: root.clone() };
        let mut spec = ContainerSpec::new(source.clone());
        spec.command = Some(command.iter().map(|&c| c.to_owned()).collect());
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut id = [0; 32];
        id[..4].copy_from_slice(&std::process::id().to_be_bytes());
        id[4..8].copy_from_slice(&number.to_be_bytes());
        let instance = Instance {
            id: ContainerId::from_bytes(id),
            name: "web".parse().unwrap(),
            service: "web".parse().unwrap(),
            number: 1,
            rev: 1,
            spec,
            image: Image {
                key: source.key(),
                id: None,
                digest: None,
                size: 0,
                layers: vec![root],
                config: ImageConfig::default(),
            },
            attachments: Vec::new(),
            dns: Vec::new(),
            volumes: Default::default(),
            joins: Default::default(),
            contents: Vec::new(),
            links: Vec::new(),
        };
        Self {
            dir,
            instance,
            parent: format!("/wharf-test-{}-{number}", std::process::id()),
        }
    }

    pub fn with(mut self, change: impl FnOnce(&mut ContainerSpec)) -> Self {
        change(&mut self.instance.spec);
        self
    }

    pub fn external(self, runtime: &str) -> Self {
        self.with(|s| s.runtime = RuntimeChoice::External(runtime.to_owned()))
    }

    /// The control group all of it is below.
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// The image's root, to be changed before the run.
    pub fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// A directory beside the image.
    pub fn beside(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    pub fn bundle_dir(&self) -> PathBuf {
        self.beside("run/bundle")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.beside("state")
    }

    pub fn contents_dir(&self) -> PathBuf {
        self.beside("contents")
    }

    pub fn prepare(&self) -> Result<prepare::Prepared, PrepareError> {
        let host = prepare::host(&self.instance)?;
        let places = Places {
            state_dir: &self.state_dir(),
            contents_dir: &self.contents_dir(),
            volumes_dir: &self.beside("volumes"),
            servers_dir: &self.beside("nfs"),
            exe: Path::new(PROBE),
        };
        prepare::check(&places, &self.instance, &host)
    }

    /// The bundle with root as its user, without asking the image.
    pub fn build(&self, user: &bundle::ResolvedUser) -> Bundle {
        self.try_build(user).unwrap()
    }

    pub fn try_build(&self, user: &bundle::ResolvedUser) -> Result<Bundle, bundle::BundleError> {
        bundle::build(&BundleInput {
            instance: &self.instance,
            user,
            host: &prepare::host(&self.instance).unwrap(),
            bundle_dir: &self.bundle_dir(),
            state_dir: &self.state_dir(),
            contents_dir: &self.contents_dir(),
            servers_dir: &self.beside("nfs"),
            cgroup_parent: &self.parent,
        })
    }

    /// Prepares, builds, writes and starts.
    pub fn run(&self) -> Ran {
        let prepared = self.prepare().unwrap();
        self.run_bundle(&self.build(&prepared.user))
    }

    /// Starts without the check that would have found what is wrong.
    pub fn run_unchecked(&self) -> Ran {
        for dir in ["upper", "work"] {
            fs::create_dir_all(self.state_dir().join(dir)).unwrap();
        }
        self.run_bundle(&self.build(&bundle::ResolvedUser::default()))
    }

    pub fn run_bundle(&self, bundle: &Bundle) -> Ran {
        let dir = self.bundle_dir();
        write(&dir.join(CONFIG), &serde_json::to_vec(&bundle.spec).unwrap());
        write(&dir.join(EXTRA), &serde_json::to_vec(&bundle.extra).unwrap());
        for (name, text) in &bundle.files {
            write(&dir.join(name), text.as_bytes());
        }
        let output = Command::new(PROBE)
            .arg("launch")
            .arg(&dir)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let hierarchies = Hierarchies::detect().unwrap();
        let (above, name) = self.parent.rsplit_once('/').unwrap();
        let group = CgroupSet::new(&hierarchies, above, name);
        let gone = group.kill_all().and_then(|()| group.remove());
        if !std::thread::panicking() {
            gone.unwrap();
        }
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

/// busybox with links for its applets, and accounts.
pub fn busybox_image(root: &Path) {
    for dir in ["bin", "etc", "tmp", "root", "var"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let applets = Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .unwrap()
        .stdout;
    for applet in String::from_utf8(applets)
        .unwrap()
        .lines()
        .filter(|a| *a != "busybox")
    {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nwww:x:33:34:www:/var/www:/bin/sh\n",
    )
    .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nwww:x:34:\nvideo:x:44:www\n").unwrap();
}

/// Compiles a static C program into a directory.
pub fn compile(source: &str, to: &Path) {
    let file = to.with_extension("c");
    fs::write(&file, source).unwrap();
    let done = Command::new("gcc")
        .args(["-static", "-O1", "-o"])
        .arg(to)
        .arg(&file)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::remove_file(&file).unwrap();
}
