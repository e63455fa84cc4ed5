//! Bridges, veth pairs, the firewall table and the look at host ports, over netlink.
