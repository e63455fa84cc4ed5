//! Logging in: seeing that a registry lets somebody in, and keeping or forgetting that in the file that pulls and pushes
//! read.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use hyper::Method;

use super::RegistryConfig;
use super::ask::{Aim, Ask};
use super::conf::Conf;
use super::credentials::Login;
use super::credentials::keep::{self, Kept};
use super::error::RegistryError;
use super::routes::Route;
use super::session::Session;

/// What a login came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    /// `HOST[:PORT]`.
    pub registry: String,
    pub file: PathBuf,
    /// The credential helper that keeps the password, where the file names one.
    pub helper: Option<String>,
}

impl RegistryConfig {
    /// Whether the registry lets this user in.
    pub fn check_login(&self, login: &Login, cancel: &AtomicBool) -> Result<(), RegistryError> {
        let registry = login.registry();
        let conf = self.conf()?;
        let leads = conf.leads(registry, false)?;
        let route = Route {
            registry: registry.to_owned(),
            repository: String::new(),
            insecure: leads.own.map(|place| place.insecure).filter(|insecure| *insecure),
        };
        let session = Session::new(&self.clone().with_login(login.clone()), route, Aim::Login)?;
        let watch = session.watch(cancel);
        let ask = Ask {
            good: &[200],
            ..Ask::new(format!("login to {registry}"), Method::GET, "/v2/".to_owned())
        };
        session.patiently(watch, || session.head(&ask, watch)).map(drop)
    }

    /// Checks user and password, and keeps them where every later pull and push reads them.
    pub fn log_in(
        &self,
        registry: &str,
        user: &str,
        password: &str,
        cancel: &AtomicBool,
    ) -> Result<LoggedIn, RegistryError> {
        let login = Login::password(registry, user, password);
        let registry = login.registry().to_owned();
        if user.is_empty() || password.is_empty() || user.contains(':') {
            let why = "a user name without a colon and a password are needed";
            return Err(RegistryError::refused(format!("login to {registry}"), why));
        }
        let file = self.own_file()?;
        self.would_count(&registry, file)?;
        self.check_login(&login, cancel)?;
        let kept = keep::keep(file, &registry, user, password)?;
        Ok(LoggedIn {
            registry,
            file: file.to_owned(),
            helper: match kept {
                Kept::File => None,
                Kept::Helper(name) => Some(name),
            },
        })
    }

    /// Forgets the login for a registry; its name as it is kept, and the file.
    pub fn log_out(&self, registry: &str) -> Result<(String, PathBuf), RegistryError> {
        let registry = Login::identity(registry, "").registry().to_owned();
        let file = self.own_file()?;
        if keep::forget(file, &registry)? {
            return Ok((registry, file.to_owned()));
        }
        let what = format!("logout of {registry}");
        let shown = file.display();
        let others = self.files.logins.iter().filter(|other| *other != file);
        let others: Vec<PathBuf> = others.cloned().collect();
        let why = match keep::before(Path::new(""), &others, &registry) {
            Some(other) => format!(
                "{shown} has no login for it; {} has one: log out with the program that wrote that",
                other.display()
            ),
            None => format!("{shown} has no login for it"),
        };
        Err(RegistryError::refused(what, why))
    }

    /// Where logins are kept.
    fn own_file(&self) -> Result<&Path, RegistryError> {
        let file = self.files.own.as_deref();
        file.ok_or_else(|| RegistryError::refused("login", "there is no file to keep it in"))
    }

    /// A login that nobody would ever look at is none.
    fn would_count(&self, registry: &str, file: &Path) -> Result<(), RegistryError> {
        let what = format!("login to {registry}");
        let settings = self.settings(registry);
        if settings.is_some_and(|table| table.username.is_some()) {
            let why = format!(
                "[registry.{registry:?}] in wharf.toml names a user and goes before every login: change it there"
            );
            return Err(RegistryError::refused(what, why));
        }
        match keep::before(file, &self.files.logins, registry) {
            None => Ok(()),
            Some(other) => {
                let why = format!(
                    "{} has a login for it and goes before {}: log out with the program that wrote that \
                     (docker logout, podman logout) first",
                    other.display(),
                    file.display()
                );
                Err(RegistryError::refused(what, why))
            }
        }
    }

    pub(super) fn conf(&self) -> Result<Conf, RegistryError> {
        match &self.files.conf {
            Some(path) => Conf::read(path),
            None => Ok(Conf::default()),
        }
    }
}
