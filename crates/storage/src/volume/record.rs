//! `volume.json`: what a volume was made as.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::Timestamp;
use model::paths::VOLUME_DATA;
use model::spec::{VolumeDriver, VolumeSpec};
use serde::{Deserialize, Serialize};

/// Its name in the volume's directory.
pub const RECORD: &str = "volume.json";

/// Raised when an older record cannot be read as it is.
const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    pub spec: VolumeSpec,
    pub created_at: Timestamp,
    /// It is not on disk, or not legible: made up for the data that were found.
    #[serde(skip)]
    pub assumed: bool,
}

impl Record {
    /// Of a volume made now.
    pub fn new(spec: &VolumeSpec) -> Self {
        Self {
            version: VERSION,
            spec: spec.clone(),
            created_at: Timestamp::now(),
            assumed: false,
        }
    }

    /// Of the volume in this directory; none where there is no volume. Data without a record that can be understood
    /// are a local volume's: nothing that might be somebody's data is ever taken for nothing.
    pub fn of(home: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(home.join(RECORD)) {
            Ok(bytes) => bytes,
            Err(e) if is_absent(&e) => Vec::new(),
            Err(e) => return Err(e),
        };
        let record: Option<Self> = serde_json::from_slice(&bytes).ok();
        match record.filter(|record| record.version == VERSION) {
            Some(record) => Ok(Some(record)),
            None => Self::of_found_data(&home.join(VOLUME_DATA)),
        }
    }

    fn of_found_data(data: &Path) -> io::Result<Option<Self>> {
        let found = match fs::symlink_metadata(data) {
            Ok(found) if found.is_dir() => found,
            Ok(_) => return Ok(None),
            Err(e) if is_absent(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        let changed = found.modified().ok().and_then(|at| at.try_into().ok());
        let spec = VolumeSpec {
            driver: VolumeDriver::Local,
            device: None,
            options: Vec::new(),
            labels: Default::default(),
            keep: true,
            exclusive: false,
        };
        Ok(Some(Self {
            created_at: changed.unwrap_or_else(Timestamp::now),
            assumed: true,
            ..Self::new(&spec)
        }))
    }

    /// Writes it to a new file, on disk when this returns.
    pub fn write_new(&self, path: &Path) -> io::Result<()> {
        let mut file = File::create_new(path)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()
    }
}

/// There is nothing of that name.
pub fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
