//! The scopes of OAuth, as a face of [`Ceiling`]: what a client asks for is the most that its tokens may do, besides what is
//! granted.
//!
//! | scope | |
//! |---|---|
//! | `proxy` | have the broker make calls |
//! | `reveal` | be handed access tokens, where a grant says so |
//! | `provider:NAME` | only at this provider; several add up |
//! | `connection:ID` | only with this connection; several add up |
//!
//! Without `proxy` or `reveal` it is `proxy`. A ceiling is never made from scopes alone, but always from another ceiling that it
//! narrows ([`Scopes::narrow`]): a scope that is left out can so not widen anything.

use std::{collections::BTreeSet, fmt, str::FromStr};

use super::fault::{Fault, Word};
use crate::{
    id::{ConnectionId, ProviderName},
    principal::{Ceiling, Delivery},
};

/// One scope.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// A way of delivery.
    Delivery(Delivery),
    /// Only at this provider.
    Provider(ProviderName),
    /// Only with this connection.
    Connection(ConnectionId),
}

impl FromStr for Scope {
    type Err = Fault;

    fn from_str(word: &str) -> Result<Self, Fault> {
        let unknown = || Fault::new(Word::InvalidScope, "the scopes are proxy, reveal, provider:NAME and connection:ID");
        match word.split_once(':') {
            None if word == "proxy" => Ok(Self::Delivery(Delivery::Proxy)),
            None if word == "reveal" => Ok(Self::Delivery(Delivery::Reveal)),
            Some(("provider", name)) => name.parse().map(Self::Provider).map_err(|_| unknown()),
            Some(("connection", id)) => id.parse().map(Self::Connection).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivery(delivery) => write!(f, "{delivery}"),
            Self::Provider(name) => write!(f, "provider:{name}"),
            Self::Connection(id) => write!(f, "connection:{id}"),
        }
    }
}

/// A set of scopes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(BTreeSet<Scope>);

/// The most scopes that may be asked for at once.
const MOST: usize = 100;

impl FromStr for Scopes {
    type Err = Fault;

    /// Reads scopes with single spaces between them (RFC 6749 section 3.3). One that is unknown refuses them all: it may have
    /// been meant to narrow.
    fn from_str(text: &str) -> Result<Self, Fault> {
        let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
        if words.len() > MOST {
            return Err(Fault::new(Word::InvalidScope, "these are too many scopes"));
        }
        words.into_iter().map(|word| word.parse::<Scope>()).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, scope) in self.0.iter().enumerate() {
            write!(f, "{}{scope}", if at > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}

impl Scopes {
    /// The scopes that a ceiling leaves. What it says of operations is none: it narrows all the same.
    pub fn of(ceiling: &Ceiling) -> Self {
        let all = BTreeSet::from([Delivery::Proxy, Delivery::Reveal]);
        let deliveries = ceiling.delivery.as_ref().unwrap_or(&all).iter().copied().map(Scope::Delivery);
        let providers = ceiling.providers.iter().flatten().cloned().map(Scope::Provider);
        let connections = ceiling.connections.iter().flatten().cloned().map(Scope::Connection);
        deliveries.chain(providers).chain(connections).collect()
    }

    /// The single scopes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.0.iter()
    }

    /// Whether a way of delivery is named.
    pub fn names_delivery(&self) -> bool {
        self.0.iter().any(|scope| matches!(scope, Scope::Delivery(_)))
    }

    /// Whether a provider or a connection is named.
    pub fn names_target(&self) -> bool {
        self.0.iter().any(|scope| !matches!(scope, Scope::Delivery(_)))
    }

    /// Refuses what is beyond a ceiling (RFC 6749 section 6: a refresh asks for nothing that was not granted).
    pub fn check_within(&self, most: &Ceiling) -> Result<(), Fault> {
        let fine = self.0.iter().all(|scope| match scope {
            Scope::Delivery(delivery) => most.delivery.as_ref().is_none_or(|all| all.contains(delivery)),
            Scope::Provider(name) => most.providers.as_ref().is_none_or(|all| all.contains(name)),
            Scope::Connection(id) => most.connections.as_ref().is_none_or(|all| all.contains(id)),
        });
        if fine { Ok(()) } else { Err(Fault::new(Word::InvalidScope, "a scope is more than may be asked for here")) }
    }

    /// The ceiling under another one that these scopes leave; nothing where nothing is left.
    pub fn narrow(&self, most: &Ceiling) -> Option<Ceiling> {
        let mut asked = BTreeSet::new();
        let (mut providers, mut connections) = (BTreeSet::new(), BTreeSet::new());
        for scope in &self.0 {
            match scope {
                Scope::Delivery(delivery) => {
                    asked.insert(*delivery);
                }
                Scope::Provider(name) => {
                    providers.insert(name.clone());
                }
                Scope::Connection(id) => {
                    connections.insert(id.clone());
                }
            }
        }
        if asked.is_empty() {
            asked.insert(Delivery::Proxy);
        }
        Some(Ceiling {
            delivery: cut(asked, most.delivery.as_ref())?,
            providers: cut(providers, most.providers.as_ref())?,
            connections: cut(connections, most.connections.as_ref())?,
            ..most.clone()
        })
    }
}

/// The ceiling that lies under two; nothing where nothing is left. One of them is a client's, which names no operations and
/// nothing of a platform.
pub(super) fn under(most: &Ceiling, client: Option<&Ceiling>) -> Option<Ceiling> {
    match client {
        None => Some(most.clone()),
        Some(client) => Scopes::of(client).narrow(most),
    }
}

/// What is in both sets, where an empty first one asks for nothing in particular. Nothing where they have nothing in common.
fn cut<T: Ord + Clone>(asked: BTreeSet<T>, most: Option<&BTreeSet<T>>) -> Option<Option<BTreeSet<T>>> {
    match (asked.is_empty(), most) {
        (true, most) => Some(most.cloned()),
        (false, None) => Some(Some(asked)),
        (false, Some(most)) => {
            let both: BTreeSet<T> = asked.intersection(most).cloned().collect();
            (!both.is_empty()).then_some(Some(both))
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scopes(text: &str) -> Scopes {
        text.parse().unwrap()
    }

    /// Whether everything that a ceiling allows is allowed by another, too.
    pub(in crate::oauth) fn is_within(small: &Ceiling, large: &Ceiling) -> bool {
        fn part<T: Ord>(small: Option<&BTreeSet<T>>, large: Option<&BTreeSet<T>>) -> bool {
            large.is_none_or(|large| small.is_some_and(|small| small.is_subset(large)))
        }
        part(small.delivery.as_ref(), large.delivery.as_ref())
            && part(small.providers.as_ref(), large.providers.as_ref())
            && part(small.connections.as_ref(), large.connections.as_ref())
            && (large.operations.is_none() || small.operations == large.operations)
            && (large.platform.is_none() || small.platform == large.platform)
    }

    #[test]
    fn scopes_are_read_as_they_are_written() {
        for text in ["proxy", "proxy reveal", "proxy reveal provider:lab provider:reddit"] {
            assert_eq!(scopes(text).to_string(), text);
        }
        assert_eq!(scopes(" reveal  proxy proxy").to_string(), "proxy reveal");
        for text in ["openid", "Proxy", "provider:", "provider:A B", "connection:1", "proxy\treveal", "provider"] {
            assert_eq!(text.parse::<Scopes>().unwrap_err().word(), Some(Word::InvalidScope), "{text:?}");
        }
    }

    #[test]
    fn without_a_delivery_it_is_the_proxy() {
        let ceiling = scopes("provider:lab").narrow(&Ceiling::default()).unwrap();
        assert_eq!(Scopes::of(&ceiling).to_string(), "proxy provider:lab");
    }

    #[test]
    fn a_provider_that_is_left_out_does_not_open_the_others() {
        let granted = scopes("proxy provider:lab").narrow(&Ceiling::default()).unwrap();
        let asked = scopes("proxy").narrow(&granted).unwrap();
        assert_eq!(asked, granted);
    }

    #[test]
    fn where_nothing_is_left_there_is_no_ceiling() {
        let granted = scopes("proxy provider:lab").narrow(&Ceiling::default()).unwrap();
        assert!(scopes("reveal").narrow(&granted).is_none());
        assert!(scopes("proxy provider:reddit").narrow(&granted).is_none());
    }

    pub(in crate::oauth) fn any_scopes() -> impl Strategy<Value = Scopes> {
        proptest::collection::vec(0..8_usize, 0..6).prop_map(|picks| {
            let connection = |n: u8| format!("connection:con_{}", format!("{n:x}").repeat(32));
            let words = [
                "proxy".to_owned(),
                "reveal".to_owned(),
                "provider:a".to_owned(),
                "provider:b".to_owned(),
                "provider:c".to_owned(),
                connection(1),
                connection(2),
                connection(3),
            ];
            scopes(&picks.into_iter().map(|pick| words[pick].clone()).collect::<Vec<_>>().join(" "))
        })
    }

    proptest! {
        /// R113: whatever is asked for, what comes out lies within what there was; also after any number of turns.
        #[test]
        fn no_scope_ever_grows(first in any_scopes(), second in any_scopes(), third in any_scopes()) {
            let mut ceiling = Ceiling {
                operations: Some(vec!["GET /v1/**".parse().unwrap()]),
                ..Ceiling::default()
            };
            for asked in [first, second, third] {
                let Some(narrower) = asked.narrow(&ceiling) else { break };
                prop_assert!(is_within(&narrower, &ceiling));
                ceiling = narrower;
            }
        }

        /// What a ceiling says in scopes leaves that ceiling as it is.
        #[test]
        fn the_scopes_of_a_ceiling_narrow_it_by_nothing(asked in any_scopes()) {
            let ceiling = asked.narrow(&Ceiling::default()).unwrap();
            prop_assert_eq!(Scopes::of(&ceiling).narrow(&ceiling), Some(ceiling));
        }
    }
}
