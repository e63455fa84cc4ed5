//! TLS for registries: the system's authorities and the registry's own, or none at all where the settings say `insecure`;
//! and what is shown to a registry that wants to see a certificate.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
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
    /// Trusted besides those of the system.
    authorities: Vec<CertificateDer<'static>>,
    /// What we show to the registry itself, where it asks.
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    configs: [OnceLock<Arc<ClientConfig>>; 3],
}

impl Certificates {
    /// Of the registry `HOST[:PORT]`: the authorities in the file of the settings, and what is in its directories below
    /// `dirs` (containers-certs.d(5)): `*.crt` are authorities, `NAME.cert` and `NAME.key` are for us. PEM all of them.
    pub fn of(registry: &str, authority: Option<&Path>, dirs: &[PathBuf]) -> Result<Self, RegistryError> {
        let mut found = Self::default();
        if let Some(path) = authority {
            found.authorities = certificates(path)?;
        }
        for dir in dirs {
            found.add(&dir.join(registry))?;
        }
        Ok(found)
    }

    fn add(&mut self, dir: &Path) -> Result<(), RegistryError> {
        let failed = |e: io::Error| RegistryError::refused(dir.display().to_string(), e.to_string());
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(e) => return Err(failed(e)),
        };
        let mut paths = entries.collect::<io::Result<Vec<_>>>().map_err(failed)?;
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.authorities.extend(certificates(&path)?),
                Some("cert") if self.own.is_none() => {
                    let key = path.with_extension("key");
                    let key = PrivateKeyDer::from_pem_file(&key)
                        .map_err(|e| RegistryError::refused(key.display().to_string(), e.to_string()))?;
                    self.own = Some((certificates(&path)?, key));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn config(&self, trust: Trust<'_>) -> Result<Arc<ClientConfig>, RegistryError> {
        let place = &self.configs[usize::from(trust.own) + usize::from(trust.blind)];
        if let Some(config) = place.get() {
            return Ok(Arc::clone(config));
        }
        let provider = Arc::new(ring::default_provider());
        let checked = match trust.blind {
            true => builder(Arc::clone(&provider))
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Any(provider))),
            false => builder(provider).with_root_certificates(self.trusted()),
        };
        let config = match self.own.as_ref().filter(|_| trust.own) {
            None => checked.with_no_client_auth(),
            Some((chain, key)) => {
                let made = checked.with_client_auth_cert(chain.clone(), key.clone_key());
                let why = |e| format!("the certificate that we are to show it does not fit its key: {e}");
                made.map_err(|e| RegistryError::refused(trust.registry, why(e)))?
            }
        };
        Ok(Arc::clone(place.get_or_init(|| Arc::new(config))))
    }

    /// The system's authorities (SSL_CERT_FILE and SSL_CERT_DIR are honoured) and the registry's own.
    fn trusted(&self) -> RootCertStore {
        let mut roots = system_authorities();
        roots.add_parsable_certificates(self.authorities.iter().cloned());
        roots
    }
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let refused = |why: String| RegistryError::refused(path.display().to_string(), why);
    let read = CertificateDer::pem_file_iter(path).and_then(|all| all.collect::<Result<Vec<_>, _>>());
    match read {
        Ok(all) if all.is_empty() => Err(refused("it holds no certificate in PEM".to_owned())),
        Ok(all) => Ok(all),
        Err(e) => Err(refused(e.to_string())),
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
    let connector = TlsConnector::from(trust.certificates.config(trust)?);
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
