//! Showing who we are: basic at the registry, or a token from the service it names (distribution, spec/auth/token.md).

use hyper::header::{self, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::ask::{Aim, request, well_formed};
use super::body::Outgoing;
use super::challenge::Challenge;
use super::credentials::Credentials;
use super::endpoint::{Origin, Target, is_loopback};
use super::error::{RegistryError, tame};
use super::session::{Session, lock, read};
use super::wire::{Watch, Wire};

/// Most bytes a token service's answer may have.
const MAX_TOKEN: u64 = 1 << 20;

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Session {
    /// Answers the challenge. False where there is nothing else to show than what was refused just now.
    pub(super) fn authenticate(
        &self,
        wire: &mut Wire,
        origin: &Origin,
        challenge: Option<Challenge>,
        refused: Option<&HeaderValue>,
        watch: Watch<'_>,
    ) -> Result<bool, RegistryError> {
        if lock(&self.pass).as_ref() != refused {
            // Another thread has just got a new one.
            return Ok(true);
        }
        let pass = match challenge {
            Some(Challenge::Basic) => self.known.credentials.as_ref().and_then(Credentials::basic),
            Some(Challenge::Bearer { realm, service }) => {
                let token = self.token(wire, origin, &realm, service.as_deref(), watch)?;
                Some(format!("Bearer {token}"))
            }
            None => None,
        };
        let Some(pass) = pass else {
            return Ok(false);
        };
        let mut pass = HeaderValue::try_from(pass).map_err(|_| {
            RegistryError::refused(
                origin.to_string(),
                "what it wants to see does not fit into a header",
            )
        })?;
        pass.set_sensitive(true);
        if Some(&pass) == refused {
            return Ok(false);
        }
        *lock(&self.pass) = Some(pass);
        Ok(true)
    }

    /// A token for what is wanted and nothing else, whatever the challenge would have us ask for.
    fn token(
        &self,
        wire: &mut Wire,
        origin: &Origin,
        realm: &str,
        service: Option<&str>,
        watch: Watch<'_>,
    ) -> Result<String, RegistryError> {
        let what = format!("token service of {}", self.endpoint.name);
        let Some(target) = Target::parse(realm) else {
            let why = format!("{:?} is no http or https URL that is accepted", tame(realm));
            return Err(RegistryError::refused(what, why));
        };
        if !self.endpoint.loopback && is_loopback(&target.origin.host) {
            let why = format!("{} is this machine itself", target.origin);
            return Err(RegistryError::refused(what, why));
        }
        let credentials = self.known.credentials.as_ref();
        let credentials = credentials.filter(|_| self.may_know(origin, &target.origin));
        if self.aim == Aim::Login && credentials.is_none() {
            let why = format!(
                "{} is elsewhere, and without checked TLS on both sides it is not shown any password",
                target.origin
            );
            return Err(RegistryError::refused(what, why));
        }
        let request = self.token_request(&target, service, credentials)?;
        let trust = self.trust_from(origin, &target.origin);
        let response = wire.send(&target.origin, trust, &request, watch)?;
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(RegistryError::Denied {
                what: self.subject(),
                registry: self.endpoint.name.clone(),
                said: format!(
                    " (its token service {} answers {})",
                    target.origin,
                    status.as_u16()
                ),
                hint: self.hint(),
            });
        }
        if status != StatusCode::OK {
            return Err(RegistryError::Status {
                what,
                origin: target.origin.to_string(),
                status: status.as_u16(),
                said: String::new(),
                retry_after: None,
            });
        }
        let bytes = read(wire, &target.origin, response.into_body(), MAX_TOKEN, watch)?;
        let token: Option<Token> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let token = token.and_then(|token| token.token.or(token.access_token));
        token
            .filter(|token| !token.is_empty())
            .ok_or_else(|| RegistryError::refused(what, format!("{} answers without a token", target.origin)))
    }

    fn token_request(
        &self,
        target: &Target,
        service: Option<&str>,
        credentials: Option<&Credentials>,
    ) -> Result<hyper::Request<Outgoing>, RegistryError> {
        let scopes = self.scopes();
        let origin = &target.origin;
        if let Some(Credentials::Identity(token)) = credentials {
            let scope = scopes.join(" ");
            let mut query = vec![("scope", scope.as_str())];
            query.extend(service.map(|service| ("service", service)));
            query.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "wharf"),
                ("refresh_token", token),
            ]);
            let body = encode(&query);
            let post = request(&Method::POST, origin, target.path.as_str())
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .header(header::CONTENT_LENGTH, body.len());
            return well_formed(origin, post.body(Outgoing::bytes(body)));
        }
        let mut query: Vec<_> = scopes.iter().map(|scope| ("scope", scope.as_str())).collect();
        query.extend(service.map(|service| ("service", service)));
        let joint = if target.path.query().is_some() { '&' } else { '?' };
        let mut get = request(
            &Method::GET,
            origin,
            &format!("{}{joint}{}", target.path, encode(&query)),
        );
        if let Some(basic) = credentials.and_then(Credentials::basic) {
            get = get.header(header::AUTHORIZATION, basic);
        }
        well_formed(origin, get.body(Outgoing::empty()))
    }

    /// What a token is to be good for (distribution, spec/auth/scope.md).
    fn scopes(&self) -> Vec<String> {
        let own = &self.repository;
        match &self.aim {
            Aim::Pull => vec![format!("repository:{own}:pull")],
            Aim::Push { sources } => {
                let sources = sources.iter().map(|name| format!("repository:{name}:pull"));
                std::iter::once(format!("repository:{own}:pull,push"))
                    .chain(sources)
                    .collect()
            }
            Aim::Search => vec!["registry:catalog:*".to_owned()],
            Aim::Login => Vec::new(),
        }
    }

    /// What is refused, where it is all that was asked for.
    fn subject(&self) -> String {
        match self.aim {
            Aim::Pull | Aim::Push { .. } => format!("repository {}", self.repository),
            Aim::Search => "the list of repositories".to_owned(),
            Aim::Login => "login".to_owned(),
        }
    }

    /// Whether the credentials for the registry may be shown to its token service. Elsewhere than at the registry
    /// itself only over checked TLS, and only if nobody could have put the realm into the registry's answer on its way.
    fn may_know(&self, registry: &Origin, service: &Origin) -> bool {
        let sure = registry.https && !self.endpoint.insecure;
        registry == service || (sure && service.https)
    }

    /// What the user can do about a refusal.
    pub(super) fn hint(&self) -> String {
        let name = &self.endpoint.name;
        if self.known.credentials.is_some() {
            let may = match self.aim {
                Aim::Pull => ", and that they may pull this",
                Aim::Push { .. } => ", and that they may push there",
                Aim::Search => ", and that they may list what is there",
                Aim::Login => "",
            };
            let mut hint = format!("check the user name and password for {name}{may}");
            if self.endpoint.insecure {
                hint.push_str(
                    "; from an insecure registry they are shown to the registry itself alone, not to a token service elsewhere",
                );
            }
            return hint;
        }
        let note = self
            .known
            .note
            .as_ref()
            .map_or_else(String::new, |note| format!(" ({note})"));
        format!(
            "it is not there, or it wants a login: `wharf login {name}`, or set username and password_file \
             under [registry.{name:?}] in wharf.toml{note}"
        )
    }
}

/// `application/x-www-form-urlencoded`, for URLs and bodies.
pub(super) fn encode(pairs: &[(&str, &str)]) -> String {
    let escaped = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    char::from(byte).to_string()
                }
                byte => format!("%{byte:02X}"),
            })
            .collect()
    };
    let pairs = pairs
        .iter()
        .map(|(key, value)| format!("{key}={}", escaped(value)));
    pairs.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_encoding() {
        let pairs = [("scope", "repository:a/b:pull"), ("service", "r&x=é ~")];
        assert_eq!(
            encode(&pairs),
            "scope=repository%3Aa%2Fb%3Apull&service=r%26x%3D%C3%A9%20~"
        );
    }
}
