//! Who we are to registries, and looking for images there: `/auth`, `/images/search`, `/wharf/v1/login`, `logout`,
//! `search`.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::{Value, json};
use storage::{Hit, Login, MOST_HITS, RegistryError};

use super::filters::Filters;
use super::problem::Problem;
use super::progress::quietly;
use crate::engine::Handle;

type Result<T> = std::result::Result<T, Problem>;

/// With the header's two spellings of base64, padded or not.
const LAX: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const DOCKER_IO: &str = "docker.io";
/// As many as Docker gives where nobody says.
const HITS: usize = 25;

/// Docker's AuthConfig (moby, api/types/registry). Where a registry is named it is by host or URL.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub struct AuthConfig {
    username: String,
    password: String,
    /// Both of them in base64.
    auth: String,
    serveraddress: String,
    identitytoken: String,
    registrytoken: String,
}

impl AuthConfig {
    /// None where it says nothing of anybody.
    fn login(self, registry: &str) -> Result<Option<Login>> {
        let registry = match self.serveraddress.as_str() {
            "" => registry,
            address => address,
        };
        if !self.registrytoken.is_empty() {
            let text =
                "a registry token cannot be used: log in with a user name and password, or an identity token";
            return Err(Problem::bad_request(text));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Login::identity(registry, self.identitytoken)));
        }
        let (user, password) = match self.username.is_empty() {
            false => (self.username, self.password),
            true => match decoded(&self.auth)
                .as_deref()
                .and_then(|text| text.split_once(':'))
            {
                Some((user, password)) => (user.to_owned(), password.to_owned()),
                None => return Ok(None),
            },
        };
        Ok(Some(Login::password(registry, user, password)))
    }
}

fn decoded(text: &str) -> Option<String> {
    let engines = [&alphabet::URL_SAFE, &alphabet::STANDARD];
    let bytes = engines
        .into_iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, LAX).decode(text.trim()).ok())?;
    String::from_utf8(bytes).ok()
}

/// As whom a client wants a registry to be asked, by the header `X-Registry-Auth`. `name` is the image's.
pub fn who(headers: &HeaderMap, name: &str) -> Result<Option<Login>> {
    let Some(value) = headers.get("x-registry-auth") else {
        return Ok(None);
    };
    let text = value.to_str().ok().and_then(decoded).unwrap_or_default();
    if text.trim().is_empty() || text.trim() == "null" {
        return Ok(None);
    }
    // What is wrong with it is a secret too.
    let config: AuthConfig = serde_json::from_str(&text).map_err(|_| {
        Problem::bad_request("the header X-Registry-Auth is no JSON in base64 as it should be")
    })?;
    let registry = name.split('/').next().unwrap_or_default();
    config.login(registry)
}

/// `POST /auth`: whether a registry lets somebody in. Docker's client keeps the password itself.
pub async fn auth(State(handle): State<Handle>, Json(config): Json<AuthConfig>) -> Result<Json<Value>> {
    let Some(login) = config.login(DOCKER_IO)? else {
        return Err(Problem::bad_request("a user name and password are needed"));
    };
    let registries = handle.host.store.registries();
    let checked = quietly(move |cancel| registries.check_login(&login, cancel)).await?;
    checked.map_err(refused)?;
    Ok(Json(json!({ "Status": "Login Succeeded", "IdentityToken": "" })))
}

/// `POST /wharf/v1/login`: the same, and the password is kept where the agent finds it.
pub async fn login(State(handle): State<Handle>, Json(config): Json<AuthConfig>) -> Result<Json<Value>> {
    let registries = handle.host.store.registries();
    let kept = quietly(move |cancel| {
        let registry = first(&config.serveraddress);
        registries.log_in(registry, &config.username, &config.password, cancel)
    });
    let kept = kept.await?.map_err(refused)?;
    Ok(Json(
        json!({ "registry": kept.registry, "file": kept.file, "helper": kept.helper }),
    ))
}

/// `POST /wharf/v1/logout`.
pub async fn logout(State(handle): State<Handle>, Json(config): Json<AuthConfig>) -> Result<Json<Value>> {
    let registries = handle.host.store.registries();
    let forgotten = quietly(move |_| registries.log_out(first(&config.serveraddress))).await?;
    let (registry, file) = forgotten.map_err(refused)?;
    Ok(Json(json!({ "registry": registry, "file": file })))
}

fn first(address: &str) -> &str {
    match address {
        "" => DOCKER_IO,
        address => address,
    }
}

fn refused(error: RegistryError) -> Problem {
    match error.is_denied() {
        true => Problem::unauthorized(error.to_string()),
        false => Problem::failed(error.to_string()),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SearchQuery {
    term: String,
    limit: Option<usize>,
    filters: String,
}

/// `GET /wharf/v1/search`: what was found, and what went wrong where.
pub async fn search(
    State(handle): State<Handle>,
    Query(query): Query<SearchQuery>,
    headers: HeaderMap,
) -> Result<Json<Value>> {
    let (hits, errors) = find(&handle, &query, &headers).await?;
    let hits: Vec<Value> = hits.iter().map(own_row).collect();
    Ok(Json(json!({ "results": hits, "errors": errors })))
}

/// `GET /images/search`: an error only where nobody answered.
pub async fn docker_search(
    State(handle): State<Handle>,
    Query(query): Query<SearchQuery>,
    headers: HeaderMap,
) -> Result<Json<Value>> {
    let filters = Filters::parse(&query.filters, &["is-official", "is-automated", "stars"])?;
    let (hits, errors) = find(&handle, &query, &headers).await?;
    if hits.is_empty() && !errors.is_empty() {
        return Err(Problem::failed(errors.join("; ")));
    }
    for error in errors {
        tracing::warn!("{error}");
    }
    let is = |flag: bool| move |wanted: &str| matches!(wanted, "1" | "true") == flag;
    let fits = |hit: &&Hit| {
        filters.fits("is-official", is(hit.official))
            && filters.fits("is-automated", is(hit.automated))
            && filters.fits("stars", |least| {
                least.parse().is_ok_and(|least: u64| hit.stars >= least)
            })
    };
    Ok(Json(hits.iter().filter(fits).map(row).collect()))
}

async fn find(handle: &Handle, query: &SearchQuery, headers: &HeaderMap) -> Result<(Vec<Hit>, Vec<String>)> {
    let registries = handle.host.store.registries();
    let limit = query.limit.filter(|limit| *limit > 0).unwrap_or(HITS);
    if limit > MOST_HITS {
        return Err(Problem::bad_request(format!(
            "at most {MOST_HITS} can be asked for"
        )));
    }
    let (places, term) = registries.search_in(&query.term);
    if query.term.is_empty() {
        return Err(Problem::bad_request("say what to look for: the term is empty"));
    }
    let login = who(headers, &query.term)?;
    quietly(move |cancel| {
        let registries = match login {
            Some(login) => storage::RegistryConfig::clone(&registries).with_login(login),
            None => storage::RegistryConfig::clone(&registries),
        };
        let (mut hits, mut errors) = (Vec::new(), Vec::new());
        for place in &places {
            match registries.search(place, &term, limit, cancel) {
                Ok(found) => hits.extend(found),
                Err(e) => errors.push(e.to_string()),
            }
        }
        (hits, errors)
    })
    .await
}

/// As Docker has it: its own registry is not named.
fn row(hit: &Hit) -> Value {
    json!({
        "name": if hit.registry == DOCKER_IO { hit.name.clone() } else { format!("{}/{}", hit.registry, hit.name) },
        "description": hit.description,
        "star_count": hit.stars,
        "is_official": hit.official,
        "is_automated": hit.automated,
    })
}

fn own_row(hit: &Hit) -> Value {
    json!({
        "registry": hit.registry,
        "name": hit.name,
        "description": hit.description,
        "stars": hit.stars,
        "official": hit.official,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn header(text: &str) -> HeaderMap {
        HeaderMap::from_iter([("x-registry-auth".parse().unwrap(), text.parse().unwrap())])
    }

    #[test]
    fn who_a_client_says_to_be() {
        // {} and null, as a client without a login sends them; nothing at all.
        for none in ["e30=", "bnVsbA==", "e30"] {
            assert!(who(&header(none), "r.io/x").unwrap().is_none(), "{none}");
        }
        assert!(who(&HeaderMap::new(), "r.io/x").unwrap().is_none());
        let encode = |value: &Value| {
            let config = GeneralPurposeConfig::new();
            GeneralPurpose::new(&alphabet::URL_SAFE, config).encode(value.to_string())
        };
        for (value, registry) in [
            (json!({ "username": "u", "password": "p??>>" }), "r.io"),
            (
                json!({ "username": "u", "password": "p", "serveraddress": "https://index.docker.io/v1/" }),
                "docker.io",
            ),
            (
                json!({ "auth": "dTpw", "serveraddress": "localhost:5000" }),
                "localhost:5000",
            ),
            (json!({ "identitytoken": "t" }), "r.io"),
        ] {
            let login = who(&header(&encode(&value)), "r.io/x").unwrap().unwrap();
            assert_eq!(login.registry(), registry, "{value}");
        }
        for bad in ["%%%%", "eyI="] {
            let said = who(&header(bad), "r.io/x");
            assert!(said.is_err() || said.unwrap().is_none(), "{bad}");
        }
        let token = json!({ "registrytoken": "t" });
        assert!(who(&header(&encode(&token)), "r.io/x").is_err());
    }
}
