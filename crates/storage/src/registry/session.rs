//! Asking one registry, mostly about one repository: where it is, who we are, where it sends us, and how often to try.
//!
//! OCI distribution-spec 1.1, "Pull" and "Push". Credentials go to the registry itself and to its token service, and
//! nowhere else: a redirect to another server is followed without them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Response, StatusCode};

use super::ask::{Aim, Answer, Ask, request, retry_after, well_formed, words};
use super::body::Outgoing;
use super::challenge;
use super::credentials::{self, Known};
use super::endpoint::{Endpoint, Origin, Target, is_loopback};
use super::error::{RegistryError, tame};
use super::proxy::Proxies;
use super::routes::Route;
use super::tls::Certificates;
use super::wire::{Pace, Trust, Watch, Wire};
use super::{Patience, RegistryConfig};

/// How many redirects in a row are followed.
const MAX_REDIRECTS: usize = 5;
/// Bytes of an error's body that are looked at.
const MAX_ERROR: u64 = 16 * 1024;

/// A repository and what was learned on the way to it.
pub struct Session {
    pub endpoint: Endpoint,
    /// Empty where all of the registry is meant.
    pub repository: String,
    pub(super) aim: Aim,
    pub(super) known: Known,
    patience: Patience,
    pub(super) certificates: Certificates,
    proxies: Proxies,
    /// Once it has answered there.
    origin: Mutex<Option<Origin>>,
    /// What `Authorization` the registry accepts.
    pub(super) pass: Mutex<Option<HeaderValue>>,
    /// Connections that nobody uses just now.
    idle: Mutex<Vec<Wire>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    pub fn new(config: &RegistryConfig, route: Route, aim: Aim) -> Result<Self, RegistryError> {
        let Route {
            registry,
            repository,
            insecure,
        } = route;
        let settings = config.settings(&registry);
        let whole = format!("{registry}/{repository}");
        let known = match &config.login {
            Some(login) if login.is_for(&registry) => login.known(),
            _ => credentials::find(&registry, &whole, settings, &config.files.logins)?,
        };
        let insecure = settings.and_then(|settings| settings.insecure).or(insecure);
        let authority = settings.and_then(|settings| settings.ca.as_deref());
        Ok(Self {
            endpoint: Endpoint::new(&registry, insecure)?,
            repository,
            aim,
            known,
            patience: config.patience,
            certificates: Certificates::of(&registry, authority, &config.files.certificates)?,
            proxies: config.proxies.clone(),
            origin: Mutex::new(None),
            pass: Mutex::new(None),
            idle: Mutex::new(Vec::new()),
        })
    }

    /// A path of the repository.
    pub fn path(&self, rest: &str) -> String {
        format!("/v2/{}{rest}", self.repository)
    }

    pub fn watch<'a>(&self, cancel: &'a std::sync::atomic::AtomicBool) -> Watch<'a> {
        Watch {
            cancel,
            stall: self.patience.stall,
            each: None,
        }
    }

    /// Asks once. What is handed back is good.
    pub fn ask(&self, ask: &Ask, watch: Watch<'_>) -> Result<Answer, RegistryError> {
        let mut wire = self.take()?;
        let origin = self.origin(&mut wire, watch)?;
        let mut again = true;
        loop {
            let pass = lock(&self.pass).clone();
            let (response, at) = self.follow(&mut wire, &origin, ask, pass.as_ref(), watch)?;
            if response.status() == StatusCode::UNAUTHORIZED && at == origin && again {
                again = false;
                let headers = response.headers().get_all(header::WWW_AUTHENTICATE);
                let challenge = challenge::choose(headers.iter().filter_map(|value| value.to_str().ok()));
                if self.authenticate(&mut wire, &origin, challenge, pass.as_ref(), watch)? {
                    continue;
                }
            }
            if ask.good.contains(&response.status().as_u16()) {
                return Ok(Answer {
                    wire,
                    response,
                    origin: at,
                });
            }
            return Err(self.refusal(&wire, &ask.what, &at, response, watch));
        }
    }

    /// A whole body of at most `limit` bytes, tried as often as patience has it.
    pub fn document(
        &self,
        ask: &Ask,
        limit: u64,
        watch: Watch<'_>,
    ) -> Result<(HeaderMap, Vec<u8>), RegistryError> {
        self.patiently(watch, || {
            let Answer {
                wire,
                response,
                origin,
            } = self.ask(ask, watch)?;
            let (head, body) = response.into_parts();
            let bytes = read(&wire, &origin, body, limit, watch)?;
            let bytes = bytes.ok_or_else(|| {
                RegistryError::refused(
                    &ask.what,
                    format!("it has more than the {limit} bytes that are accepted"),
                )
            })?;
            self.give_back(wire);
            Ok((head.headers, bytes))
        })
    }

    /// The head of an answer whose body says nothing that is wanted.
    pub fn head(&self, ask: &Ask, watch: Watch<'_>) -> Result<(HeaderMap, Origin), RegistryError> {
        let answer = self.ask(ask, watch)?;
        self.finish(answer, watch)
    }

    /// Is done with an answer but for its head.
    pub fn finish(&self, answer: Answer, watch: Watch<'_>) -> Result<(HeaderMap, Origin), RegistryError> {
        let Answer {
            wire,
            response,
            origin,
        } = answer;
        let (head, body) = response.into_parts();
        if read(&wire, &origin, body, MAX_ERROR, watch)?.is_some() {
            self.give_back(wire);
        }
        Ok((head.headers, origin))
    }

    /// Tries again what may pass.
    pub fn patiently<T>(
        &self,
        watch: Watch<'_>,
        mut attempt: impl FnMut() -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut tries = 0;
        loop {
            match attempt() {
                Err(e) if e.passes() => {
                    tries += 1;
                    self.pause(e, tries, watch)?;
                }
                done => return done,
            }
        }
    }

    /// Waits before another try after `tries` failed ones, the last one with `error`; hands it back when it was enough.
    pub fn pause(&self, error: RegistryError, tries: u32, watch: Watch<'_>) -> Result<(), RegistryError> {
        let asked = error.retry_after().unwrap_or_default();
        if tries >= self.patience.tries || asked > self.patience.longest_wait {
            return Err(RegistryError::Tried {
                tries,
                last: Box::new(error),
            });
        }
        tracing::debug!(tries, "{error}; trying again");
        let doubled = self.patience.backoff.saturating_mul(1 << (tries - 1).min(16));
        watch.sleep(doubled.min(self.patience.backoff_max).max(asked))
    }

    /// Connections are used again by the next question.
    pub fn give_back(&self, wire: Wire) {
        lock(&self.idle).push(wire);
    }

    fn take(&self) -> Result<Wire, RegistryError> {
        let idle = lock(&self.idle).pop();
        idle.map_or_else(Wire::new, Ok)
    }

    /// Where the registry is, once it has answered.
    pub fn known_origin(&self) -> Option<Origin> {
        lock(&self.origin).clone()
    }

    /// Where the registry is. There is a choice only where it may be insecure.
    fn origin(&self, wire: &mut Wire, watch: Watch<'_>) -> Result<Origin, RegistryError> {
        if let Some(origin) = lock(&self.origin).clone() {
            return Ok(origin);
        }
        let origins = self.endpoint.origins();
        let found = match &origins[..] {
            [only] => only.clone(),
            several => self.probe(wire, several, watch)?,
        };
        *lock(&self.origin) = Some(found.clone());
        Ok(found)
    }

    fn probe(&self, wire: &mut Wire, origins: &[Origin], watch: Watch<'_>) -> Result<Origin, RegistryError> {
        let mut first = None;
        for origin in origins {
            let request = request(&Method::GET, origin, "/v2/").body(Outgoing::empty());
            let answer = wire.send(origin, self.trust(origin), &well_formed(origin, request)?, watch);
            match answer {
                // What servers of TLS say to plain http.
                Ok(response) if !origin.https && response.status() == StatusCode::BAD_REQUEST => {}
                Ok(_) => return Ok(origin.clone()),
                Err(RegistryError::Cancelled) => return Err(RegistryError::Cancelled),
                Err(e) => drop(first.get_or_insert(e)),
            }
        }
        Err(first.unwrap_or_else(|| {
            RegistryError::refused(&self.endpoint.name, "it speaks neither http nor https")
        }))
    }

    /// Sends it and goes where it is sent.
    fn follow(
        &self,
        wire: &mut Wire,
        origin: &Origin,
        ask: &Ask,
        pass: Option<&HeaderValue>,
        watch: Watch<'_>,
    ) -> Result<(Response<Incoming>, Origin), RegistryError> {
        let mut target = Target {
            origin: ask.at.as_ref().unwrap_or(origin).clone(),
            path: ask
                .path
                .parse()
                .map_err(|_| RegistryError::refused(&ask.what, "its name does not fit into a URL"))?,
        };
        for _ in 0..=MAX_REDIRECTS {
            let request = ask.request(&target, pass.filter(|_| target.origin == *origin))?;
            let response = wire.send(
                &target.origin,
                self.trust_from(origin, &target.origin),
                &request,
                watch,
            )?;
            match response.status().as_u16() {
                307 | 308 => {}
                301..=303 if ask.method.is_safe() => {}
                301..=303 => {
                    let why = format!(
                        "{} redirects what is sent to it as if it were a question: is it a registry's own address?",
                        target.origin
                    );
                    return Err(RegistryError::refused(&ask.what, why));
                }
                _ => return Ok((response, target.origin)),
            }
            target = self.redirect(&ask.what, &target.origin, response.headers())?;
        }
        let why = format!("{origin} redirects more than {MAX_REDIRECTS} times");
        Err(RegistryError::refused(&ask.what, why))
    }

    /// Where to go next, if that may be gone to.
    pub fn redirect(&self, what: &str, from: &Origin, headers: &HeaderMap) -> Result<Target, RegistryError> {
        let location = headers
            .get(header::LOCATION)
            .and_then(|value| value.to_str().ok());
        let location = location.unwrap_or_default();
        let refused = |why: &str| {
            let why = format!("{from} redirects to {:?}, {why}", tame(location));
            Err(RegistryError::refused(what, why))
        };
        let Some(target) = Target::redirect(from, location) else {
            return refused("which is no http or https URL that is accepted");
        };
        if from.https && !target.origin.https {
            return refused("which would leave TLS");
        }
        if !self.endpoint.loopback && is_loopback(&target.origin.host) {
            return refused("which is this machine itself");
        }
        Ok(target)
    }

    fn trust(&self, origin: &Origin) -> Trust<'_> {
        self.trust_from(origin, origin)
    }

    /// The registry itself is where the user says; any other server has to show a good certificate and be elsewhere.
    pub(super) fn trust_from(&self, registry: &Origin, origin: &Origin) -> Trust<'_> {
        let own = registry == origin;
        Trust {
            registry: &self.endpoint.name,
            own,
            blind: own && self.endpoint.insecure,
            loopback: own || self.endpoint.loopback,
            certificates: &self.certificates,
            proxies: &self.proxies,
        }
    }

    /// What an answer that is not good means.
    fn refusal(
        &self,
        wire: &Wire,
        what: &str,
        at: &Origin,
        response: Response<Incoming>,
        watch: Watch<'_>,
    ) -> RegistryError {
        let (head, body) = response.into_parts();
        let registry = self.endpoint.name.clone();
        // The status says enough where the words cannot be had.
        let body = read(wire, at, body, MAX_ERROR, watch)
            .ok()
            .flatten()
            .unwrap_or_default();
        let said = words(&body).map_or_else(String::new, |said| format!(" ({said})"));
        let what = what.to_owned();
        match head.status.as_u16() {
            404 => RegistryError::NotFound {
                registry: match self.repository.as_str() {
                    "" => registry,
                    repository => format!("{registry}/{repository}"),
                },
                what,
            },
            401 | 403 => RegistryError::Denied {
                what,
                hint: self.hint(),
                registry,
                said,
            },
            status => RegistryError::Status {
                what,
                origin: at.to_string(),
                status,
                said,
                retry_after: retry_after(&head.headers),
            },
        }
    }
}

/// The whole body; none where it has more than `limit` bytes.
pub(super) fn read(
    wire: &Wire,
    origin: &Origin,
    mut body: Incoming,
    limit: u64,
    watch: Watch<'_>,
) -> Result<Option<Vec<u8>>, RegistryError> {
    let mut bytes = Vec::new();
    let mut pace = Pace::default();
    while let Some(frame) = wire.frame(origin, &mut body, &mut pace, watch)? {
        if (bytes.len() + frame.len()) as u64 > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&frame);
    }
    Ok(Some(bytes))
}
