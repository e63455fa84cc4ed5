//! Rules that can be broken on purpose, one at a time: the simulation has to notice each.

/// The enum from its rules: what is done wrong, in words, and the promise that is broken by it.
macro_rules! mutations {
    ($(#[doc = $wrong:literal] $rule:ident: $promise:literal,)+) => {
        /// A rule broken on purpose, so that a test can show that breaking it is noticed.
        #[doc(hidden)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutation {
            $(#[doc = $wrong] $rule,)+
        }

        impl Mutation {
            pub const ALL: &'static [Self] = &[$(Self::$rule,)+];

            /// What is done wrong, as a sentence.
            pub fn wrong(self) -> &'static str {
                match self {
                    $(Self::$rule => $wrong.trim_ascii(),)+
                }
            }

            /// The promise that is broken by it.
            pub fn promise(self) -> &'static str {
                match self {
                    $(Self::$rule => $promise,)+
                }
            }
        }
    };
}

mutations! {
    /// What has no mark of ours is removed like what nobody needs any more.
    ForeignIsTouched: "never touch what is not ours",
    /// A failed look at the containers is taken for "there are none".
    UnknownIsAbsent: "what could not be seen is not taken for absent",
    /// Nouns with an action under way get another one.
    BusyIsIgnored: "one action at a time on a thing",
    /// A change of labels replaces the container.
    LabelsReplace: "never restart an unchanged healthy container",
    /// What came from a file that is broken now counts as gone.
    BrokenIsGone: "a broken file counts as not parsed, never as deleted",
    /// Addresses are given without a look at who has them.
    AddressesAreNotKept: "never give an address or port twice",
    /// Host ports are given without a look at who has them.
    PortsAreNotKept: "never give an address or port twice",
    /// A volume goes with its table, whatever that says.
    VolumesAreLost: "never delete a volume that is kept",
    /// Ports lead to instances that are not ready as well.
    UnreadyGetTraffic: "no traffic to an instance that is not ready while a ready one exists",
    /// One on trial takes over as soon as it runs, whatever its health.
    TrialsArePromotedEarly: "no traffic to an instance that is not ready while a ready one exists",
    /// One that was replaced is removed before names and ports have moved.
    NobodyDrains: "the old one stays until nobody is led to it",
    /// All instances of a service are replaced at the same time.
    AllAtOnce: "no more instances away for a change than update.parallelism says",
    /// A changed firewall is not put right.
    FirewallDrifts: "what is changed behind the agent's back is put right",
    /// What was taken of a running container is not put right.
    DamageStays: "what is changed behind the agent's back is put right",
    /// What a container depends on is not waited for.
    DependentsStartEarly: "what a container depends on is as it asks, before it is started",
    /// What a container relies on is removed without a look at whether it is still there.
    StopsInAnyOrder: "stopped in reverse order",
    /// Who is to be restarted with what it depends on is not.
    RenewedIsIgnored: "restart = true: begun anew with what it depends on",
    /// Who shares namespaces stays in them when their owner has left.
    OwnersAreIgnored: "sharers of namespaces live where their owner lives",
    /// A container is started before its names are answered.
    NamesComeLate: "a container's names are answered before it is started",
    /// A container is started before what it requires is mounted.
    MountsAreIgnored: "requires_mounts: not before it is a mount point",
    /// A scheduled run is begun without a look at the time.
    SchedulesAreIgnored: "a scheduled run begins when it is due",
    /// That a scheduled run has ended is not remembered.
    RunsAreRepeated: "a run that finished is never repeated",
    /// Verdicts are not remembered.
    HealthIsForgotten: "health outlives the agent",
    /// `pull = "newer"`: the registry is asked once, and never again.
    NewerIsForgotten: "pull = \"newer\": the registry is asked every update_check",
    /// A changed config or secret is not brought to those who see it.
    ContentsAreIgnored: "the content of configs and secrets counts",
}
