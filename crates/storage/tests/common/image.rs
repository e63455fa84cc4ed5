//! Makes OCI layouts, and archives of them and of Docker's kind.

use std::io::Write;
use std::path::{Path, PathBuf};

use model::digest::Digest;
use model::image::ImageSource;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::tarball::{Member, Tar};

pub fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pack {
    Plain,
    Gzip,
    /// Two gzip members one after the other.
    GzipTwice,
    Zstd,
    /// With a window of two to the power of this.
    ZstdWindow(u32),
    /// With the dictionary of this preset.
    Xz(u32),
}

impl Pack {
    pub fn pack(self, plain: &[u8]) -> Vec<u8> {
        let gzip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        match self {
            Self::Plain => plain.to_vec(),
            Self::Gzip => gzip(plain),
            Self::GzipTwice => {
                let (a, b) = plain.split_at(plain.len() / 3);
                [gzip(a), gzip(b)].concat()
            }
            Self::Zstd => zstd::encode_all(plain, 1).unwrap(),
            Self::ZstdWindow(log) => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
                encoder.window_log(log).unwrap();
                encoder.write_all(plain).unwrap();
                encoder.finish().unwrap()
            }
            Self::Xz(preset) => xz(plain, preset),
        }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip | Self::GzipTwice => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd | Self::ZstdWindow(_) => "application/vnd.oci.image.layer.v1.tar+zstd",
            // There is no type of its own: those who send it call it what they call all of theirs.
            Self::Xz(_) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

/// By the program.
pub fn xz(plain: &[u8], preset: u32) -> Vec<u8> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(plain).unwrap();
    let mut command = std::process::Command::new("xz");
    let packed = command.arg(format!("-c{preset}")).arg(file.path()).output();
    let packed = packed.expect("xz must be installed for this test");
    assert!(packed.status.success(), "{packed:?}");
    packed.stdout
}

pub fn config(diff_ids: &[Digest], execution: Value) -> Value {
    json!({"architecture": "amd64", "os": "linux", "config": execution,
           "rootfs": {"type": "layers", "diff_ids": diff_ids}})
}

/// An OCI layout in a directory.
pub struct Layout {
    pub dir: PathBuf,
    pub manifests: Vec<Value>,
}

impl Layout {
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self {
            dir: dir.to_owned(),
            manifests: Vec::new(),
        }
    }

    pub fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = digest(bytes);
        std::fs::write(self.blob_path(&digest), bytes).unwrap();
        digest
    }

    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// A descriptor of a new blob.
    pub fn described(&self, media_type: &str, bytes: &[u8]) -> Value {
        json!({"mediaType": media_type, "digest": self.blob(bytes), "size": bytes.len()})
    }

    /// The manifest, its config and layers stored, as a value that can still be changed.
    pub fn manifest(&self, layers: &[(Pack, Vec<u8>)], execution: Value) -> Value {
        let diff_ids: Vec<Digest> = layers.iter().map(|(_, plain)| digest(plain)).collect();
        let config = config(&diff_ids, execution).to_string();
        let layers: Vec<Value> = layers
            .iter()
            .map(|(pack, plain)| self.described(pack.media_type(), &pack.pack(plain)))
            .collect();
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
               "config": self.described("application/vnd.oci.image.config.v1+json", config.as_bytes()),
               "layers": layers})
    }

    pub fn add_manifest(&mut self, reference: Option<&str>, manifest: &Value) -> Value {
        let mut descriptor = self.described(
            "application/vnd.oci.image.manifest.v1+json",
            manifest.to_string().as_bytes(),
        );
        if let Some(reference) = reference {
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": reference});
        }
        self.add(descriptor.clone());
        descriptor
    }

    pub fn add(&mut self, descriptor: Value) {
        self.manifests.push(descriptor);
        self.write_index();
    }

    pub fn write_index(&self) {
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        std::fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
    }

    pub fn image(&mut self, reference: Option<&str>, layers: &[(Pack, Vec<u8>)]) -> Value {
        let manifest = self.manifest(layers, json!({}));
        self.add_manifest(reference, &manifest)
    }

    pub fn source(&self, reference: Option<&str>) -> ImageSource {
        ImageSource::Oci {
            dir: self.dir.clone(),
            reference: reference.map(str::to_owned),
        }
    }

    /// The same as an `oci-archive:`, its members in backward order.
    pub fn archive(&self, file: &Path, reference: Option<&str>) -> ImageSource {
        let mut members = vec![
            Member::dir("./"),
            Member::dir("./blobs/"),
            Member::dir("./blobs/sha256/"),
        ];
        for name in ["index.json", "oci-layout"] {
            members.push(Member::file(
                format!("./{name}"),
                std::fs::read(self.dir.join(name)).unwrap(),
            ));
        }
        for name in super::entries(&self.dir.join("blobs/sha256")) {
            let path = format!("blobs/sha256/{name}");
            members.push(Member::file(&path, std::fs::read(self.dir.join(&path)).unwrap()));
        }
        members.reverse();
        std::fs::write(file, Tar::of(members)).unwrap();
        ImageSource::OciArchive {
            file: file.to_owned(),
            reference: reference.map(str::to_owned),
        }
    }
}

pub fn docker_archive(file: &Path, reference: Option<&str>, members: Vec<Member>) -> ImageSource {
    std::fs::write(file, Tar::of(members)).unwrap();
    ImageSource::DockerArchive {
        file: file.to_owned(),
        reference: reference.map(str::to_owned),
    }
}
