//! What of this host's own state the other hosts are to know.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use model::desired::Desired;
use model::ledger::Ledger;
use model::name::Name;
use model::observed::{Look, Observed};
use model::spec::{ClusterSettings, NetworkDriver, NetworkSpec};
use model::surroundings::Way;
use model::wireguard::PublicKey;

/// By the tables as they are, and by what was accepted before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// None: there is no etcd.
    pub settings: Option<ClusterSettings>,
    pub networks: BTreeMap<Name, WantedNetwork>,
    /// What this host reaches the world from.
    pub world: Option<IpAddr>,
}

/// A network whose hosts find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedNetwork {
    pub subnet: Ipv4Net,
    /// As the table says; none: one is leased.
    pub range: Option<Ipv4Net>,
    /// The one that is in force on this host.
    pub before: Option<Ipv4Net>,
    /// This host's end of the tunnel, as the table says.
    pub local: Option<IpAddr>,
    pub tunnel: String,
    pub vni: u32,
    pub port: u16,
    /// None: it is not encrypted. The key is none while it is not known.
    pub encrypted: Option<Option<PublicKey>>,
    /// Addresses of this host's containers.
    pub in_use: Vec<Ipv4Addr>,
    /// The names that they answer to; none while that is not known.
    pub names: Option<BTreeMap<String, Vec<IpAddr>>>,
}

impl Wanted {
    pub fn by(desired: &Desired, ledger: &Ledger, observed: &Observed) -> Self {
        let Some(settings) = &desired.settings.cluster else {
            return Self::default();
        };
        let declared = desired.networks.iter().map(|(name, d)| (name, &*d.spec));
        let accepted = ledger.networks.iter().map(|(name, e)| (name, &*e.spec));
        // What a table says now goes before what it said.
        let specs: BTreeMap<&Name, &NetworkSpec> = accepted.chain(declared).collect();
        let one = |(name, spec): (&Name, &NetworkSpec)| {
            let network = of_network(name, spec, ledger, observed)?;
            Some((name.clone(), network))
        };
        let world = observed.around.ways.get(&Ipv4Addr::UNSPECIFIED.into());
        Self {
            settings: Some(settings.clone()),
            networks: specs.into_iter().filter_map(one).collect(),
            world: match world {
                Some(Way::From { source, .. }) => Some(*source),
                _ => None,
            },
        }
    }
}

fn of_network(
    name: &Name,
    spec: &NetworkSpec,
    ledger: &Ledger,
    observed: &Observed,
) -> Option<WantedNetwork> {
    let over_hosts = matches!(spec.driver, NetworkDriver::Overlay | NetworkDriver::Ovs);
    let overlay = spec
        .overlay
        .as_ref()
        .filter(|overlay| over_hosts && overlay.by_cluster)?;
    let places = ledger.accepted().flat_map(|(_, a)| a.attachments.iter());
    Some(WantedNetwork {
        subnet: spec.subnet?,
        range: spec.range,
        before: ledger
            .networks
            .get(name)
            .and_then(|entry| entry.network.v4()?.range),
        local: overlay.local,
        tunnel: overlay.tunnel.clone(),
        vni: overlay.vni?,
        port: overlay.port,
        encrypted: overlay.is_encrypted().then(|| {
            let key = observed.around.wireguard.as_ref();
            key.and_then(Look::known).copied()
        }),
        in_use: places
            .filter(|at| at.network == *name)
            .filter_map(|at| at.v4().map(|v4| v4.ip))
            .collect(),
        names: names(name, observed),
    })
}

/// Those that this host's name server answers.
fn names(network: &Name, observed: &Observed) -> Option<BTreeMap<String, Vec<IpAddr>>> {
    let Look::Known(state) = &observed.dns else {
        return None;
    };
    let mut names: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let containers = state.iter().flat_map(|state| state.containers.values());
    for endpoint in containers.filter_map(|c| c.endpoints.get(network)) {
        for name in &endpoint.names {
            names.entry(name.clone()).or_default().extend(&endpoint.ips);
        }
    }
    for ips in names.values_mut() {
        ips.sort();
        ips.dedup();
    }
    Some(names)
}
