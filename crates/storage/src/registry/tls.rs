//! TLS for registries: the system's authorities, or none at all where the settings say `insecure`.

use std::io;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::endpoint::Origin;
use super::error::RegistryError;
use super::wire::Trust;

/// Made when first needed, once a pull: so authorities that were added to the system count without a restart.
#[derive(Default)]
pub struct Certificates {
    checked: OnceLock<Arc<ClientConfig>>,
    blind: OnceLock<Arc<ClientConfig>>,
}

impl Certificates {
    fn config(&self, blind: bool) -> Arc<ClientConfig> {
        let (place, verifier): (_, fn(Arc<CryptoProvider>) -> ClientConfig) = match blind {
            true => (&self.blind, any),
            false => (&self.checked, system),
        };
        let config = place.get_or_init(|| Arc::new(verifier(Arc::new(ring::default_provider()))));
        Arc::clone(config)
    }
}

/// The connection inside TLS.
pub async fn wrap(
    origin: &Origin,
    trust: Trust<'_>,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, RegistryError> {
    let name = ServerName::try_from(origin.host.clone())
        .map_err(|e| RegistryError::refused(origin.to_string(), e.to_string()))?;
    let connector = TlsConnector::from(trust.certificates.config(trust.blind));
    connector
        .connect(name, stream)
        .await
        .map_err(|e| failed(origin, trust, e))
}

fn failed(origin: &Origin, trust: Trust<'_>, source: io::Error) -> RegistryError {
    let origin = origin.to_string();
    let name = trust.registry.to_owned();
    match source.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(_)) => RegistryError::Tls { origin, name, source },
        Some(Error::InvalidMessage(_)) => {
            let why = format!(
                "it does not speak TLS; if plain http is meant, set insecure = true under [registry.{name:?}]"
            );
            RegistryError::refused(origin, why)
        }
        _ => RegistryError::Connect { origin, source },
    }
}

fn builder(provider: Arc<CryptoProvider>) -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of TLS 1.2 and 1.3")
}

/// Authorities from where the system keeps them (SSL_CERT_FILE and SSL_CERT_DIR are honoured).
fn system(provider: Arc<CryptoProvider>) -> ClientConfig {
    builder(provider)
        .with_root_certificates(system_authorities())
        .with_no_client_auth()
}

/// The authorities that this system trusts, as they are now. That there are none is told in the log.
pub fn system_authorities() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!("some of the system's certificates cannot be read: {error}");
    }
    let mut roots = RootCertStore::empty();
    let (good, _) = roots.add_parsable_certificates(found.certs);
    if good == 0 {
        tracing::warn!("this system has no certificates of authorities; install the package ca-certificates");
    }
    roots
}

fn any(provider: Arc<CryptoProvider>) -> ClientConfig {
    builder(Arc::clone(&provider))
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any(provider)))
        .with_no_client_auth()
}

/// Believes every certificate; that the other side has its key is still checked.
#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
