//! TLS to etcd: the system's authorities, or those of a file.

use std::path::Path;
use std::sync::Arc;

use model::spec::EtcdUrl;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::EtcdError;
use super::wire::unreachable;

/// What is believed.
pub type Tls = Arc<ClientConfig>;

/// The system's, or those of the file.
pub fn config(ca: Option<&Path>) -> Result<Tls, EtcdError> {
    let roots = match ca {
        None => storage::system_authorities(),
        Some(file) => of_file(file).map_err(|why| EtcdError::Certificates {
            file: file.display().to_string(),
            why,
        })?,
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn of_file(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(file).map_err(|e| e.to_string())?;
    for certificate in found {
        let certificate = certificate.map_err(|e| e.to_string())?;
        roots.add(certificate).map_err(|e| e.to_string())?;
    }
    match roots.is_empty() {
        true => Err("it has none".to_owned()),
        false => Ok(roots),
    }
}

/// The connection inside TLS.
pub async fn wrap(url: &EtcdUrl, tls: &Tls, stream: TcpStream) -> Result<TlsStream<TcpStream>, EtcdError> {
    let name = ServerName::try_from(url.host.clone()).map_err(|e| unreachable(url, &e))?;
    let connector = TlsConnector::from(Arc::clone(tls));
    connector
        .connect(name, stream)
        .await
        .map_err(|e| unreachable(url, &e))
}
