//! What of [`Net`] encrypts overlays: WireGuard devices, and this host's key.

use std::collections::BTreeMap;
use std::path::PathBuf;

use model::network::{Driver, HostNetwork};
use model::observed::ObservedLink;
use model::wireguard::PublicKey;

use super::{Net, lock};
use crate::error::{Doing, NetError};
use crate::link;
use crate::wireguard::{self, KeyFile};

impl Net {
    /// Keeps this host's private key in this file, which is made when a key is first asked for. Without one nothing can
    /// be encrypted.
    #[must_use]
    pub fn with_key_file(self, path: PathBuf) -> Self {
        let keys = KeyFile::new(path);
        Self { keys, ..self }
    }

    /// What the other hosts know this one as. It is the same for ever.
    pub fn wireguard_key(&self) -> Result<PublicKey, NetError> {
        Ok(self.keys.pair()?.public)
    }

    /// Makes the device that encrypts the tunnel of a network, or puts it right; its number. Nothing where it is not to be
    /// encrypted. A tunnel that is open still goes first, whatever becomes of this.
    pub(super) fn encrypt(&self, n: &HostNetwork) -> Result<Option<u32>, NetError> {
        let Driver::Overlay(tunnel) = &n.driver else {
            return Ok(None);
        };
        let Some(end) = &tunnel.wireguard else {
            return Ok(None);
        };
        link::remove_unencrypted(&mut self.route(), &self.mark, &tunnel.device)?;
        let pair = self.keys.pair()?;
        if pair.public != end.key {
            let why = format!("this host's key is {} by now", pair.public);
            return Err(NetError::invalid(format!("network {}", n.name), why));
        }
        let generic = &mut lock(&self.generic);
        let index = link::apply_wireguard(&mut self.route(), generic, &self.mark, (n, end), &pair)?;
        Ok(Some(index))
    }

    /// Completes tunnels by what encrypts them. The kernel tells of no change of that.
    pub(super) fn see_encryption(&self, links: &mut BTreeMap<String, ObservedLink>) -> Result<(), NetError> {
        let is_ours = |device: &String| {
            links
                .get(device)
                .is_some_and(|l| l.ours && l.kind == link::WIREGUARD)
        };
        let encrypted = links.iter().filter(|(_, l)| l.ours && l.tunnel.is_some());
        let by = encrypted.filter_map(|(name, l)| Some((name.clone(), l.below.clone().filter(is_ours)?)));
        let by: Vec<(String, String)> = by.collect();
        for (tunnel, device) in by {
            let seen = wireguard::look(&mut lock(&self.generic), &device)
                .doing(|| format!("look at the peers of {device}"))?;
            if let Some(tunnel) = links.get_mut(&tunnel).and_then(|l| l.tunnel.as_mut()) {
                tunnel.wireguard = seen;
            }
        }
        Ok(())
    }
}
