//! Names of the sets: those of IPv4, or of both families. What the others are called, `family` says.

/// Our bridges.
pub const BRIDGES: &str = "bridges";
/// Of those, the ones without a way out.
pub const INTERNAL: &str = "internal";
/// Each bridge whose containers reach each other with itself: rules cannot compare two devices.
pub const SAME: &str = "same_bridge";
/// Each bridge with its subnet.
pub const SUBNETS: &str = "subnets";
/// Of those, the ones that get the host's address on the way out.
pub const MASQUERADED: &str = "masqueraded";
/// device . port 53 : port of the name server
pub const NAMES: &str = "names";
/// The host's addresses in networks at whose port 53 the name server listens.
pub const ASKED: &str = "names_asked";
/// protocol . host address . host port : address . port
pub const BOUND: &str = "ports_bound";
/// protocol . host port : address . port
pub const ANY: &str = "ports_any";
/// host address . host port . slot : address . port, of TCP ports with several targets
pub const BOUND_SLOTS: &str = "ports_bound_slots";
/// host port . slot : address . port, of TCP ports with several targets
pub const ANY_SLOTS: &str = "ports_any_slots";
/// The same of UDP ports.
pub const UDP_BOUND_SLOTS: &str = "udp_bound_slots";
pub const UDP_ANY_SLOTS: &str = "udp_any_slots";
/// All that say where ports lead.
pub const PORTS: [&str; 6] = [BOUND, ANY, BOUND_SLOTS, ANY_SLOTS, UDP_BOUND_SLOTS, UDP_ANY_SLOTS];
/// host address . host port : zone, of UDP ports
pub const ZONES_BOUND: &str = "zones_bound";
/// host port : zone, of UDP ports
pub const ZONES_ANY: &str = "zones_any";
/// The same with slots, of ports with several targets.
pub const ZONES_BOUND_SLOTS: &str = "zones_bound_slots";
pub const ZONES_ANY_SLOTS: &str = "zones_any_slots";
/// The same again for error messages about answers: of another type for `nft`.
pub const ERRORS_BOUND: &str = "errors_bound";
pub const ERRORS_ANY: &str = "errors_any";
pub const ERRORS_BOUND_SLOTS: &str = "errors_bound_slots";
pub const ERRORS_ANY_SLOTS: &str = "errors_any_slots";
/// Of [`BOUND`] and its slots, the ports that are not for everybody.
pub const CLOSED_BOUND: &str = "closed_bound";
/// Of [`ANY`] and its slots, the ports that are not for everybody.
pub const CLOSED_ANY: &str = "closed_any";
/// Whom those are for: protocol . host address . host port . sources
pub const ALLOWED_BOUND: &str = "allowed_bound";
/// Whom those are for: protocol . host port . sources
pub const ALLOWED_ANY: &str = "allowed_any";
/// Sources that were listed although another one of the same port contains them, which an interval set does not
/// take; no rule looks at it.
///
/// protocol . host address (0.0.0.0 for all) . host port . address . prefix length
pub const ALLOWED_TWICE: &str = "allowed_twice";
/// Sources of the other family than the port's: there where a port has any. No rule looks at it.
///
/// The same with an address of that family.
pub const ALLOWED_OTHER: &str = "allowed_other";
/// UDP ports whose flows are to be forgotten yet; no rule looks at it.
///
/// host address (0.0.0.0 for all) . host port . address (0.0.0.0: of the host) . port
pub const STALE_UDP: &str = "stale_udp";
