//! `/images/NAME/…`: the routes whose name may have slashes in it. A router cannot have anything behind such a name, so
//! what follows it is looked at here.

use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use super::{image_archives, image_details, push};
use crate::engine::Handle;

type Result<T> = std::result::Result<T, Problem>;

/// `GET /images/NAME/json`, `/history` and `/get`.
pub async fn look(State(handle): State<Handle>, Path(path): Path<String>) -> Result<Response> {
    match path.rsplit_once('/') {
        Some((name, "json")) => Ok(image_details::inspect(handle, name).await?.into_response()),
        Some((name, "history")) => Ok(image_details::history(handle, name).await?.into_response()),
        Some((name, "get")) => image_archives::save_one(handle, name).await,
        _ => Err(Problem::not_found(format!(
            "GET /images/{path} is not supported yet"
        ))),
    }
}

/// `POST /images/NAME/tag` and `/push`.
pub async fn act(
    State(handle): State<Handle>,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response> {
    let query = query.unwrap_or_default();
    match path.rsplit_once('/') {
        Some((name, "tag")) => image_details::tag(handle, name, &query).await,
        Some((name, "push")) => push::push(handle, name, &query, &headers).await,
        _ => Err(Problem::not_built(format!(
            "POST /images/{path} is not supported yet"
        ))),
    }
}
