//! Room for refreshes that are under way: so many at once, and of these so many at one host.
//!
//! A host that has none under way may have one. One that has some may have another while it has fewer than a third of what is
//! free, and more than a quarter of all is free. So a single slow host takes a quarter of all; several together leave the last
//! quarter to hosts that have none. Nobody has to find out which of them are slow.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use tokio::sync::oneshot;

use super::lock;

/// The room of this process.
#[derive(Clone)]
pub(super) struct Rooms(Arc<Mutex<State>>);

struct State {
    all: usize,
    free: usize,
    hosts: HashMap<String, Host>,
}

#[derive(Default)]
struct Host {
    held: usize,
    waiting: VecDeque<oneshot::Sender<Room>>,
}

/// Room for one refresh at one host. Dropping it gives it back.
pub(super) struct Room {
    rooms: Rooms,
    authority: String,
}

impl Rooms {
    /// Room for so many in all; at least for one.
    pub(super) fn new(all: usize) -> Self {
        Self(Arc::new(Mutex::new(State { all: all.max(1), free: all.max(1), hosts: HashMap::new() })))
    }

    /// Waits until one more may be under way at a host. Those who wait for one host have their turn in the order in which they
    /// came. Nothing where the process is at its end.
    pub(super) async fn take(&self, authority: &str) -> Option<Room> {
        let (sender, turn) = oneshot::channel();
        lock(&self.0).hosts.entry(authority.to_owned()).or_default().waiting.push_back(sender);
        self.hand_out();
        turn.await.ok()
    }

    /// Gives room to whoever waits and may have it: the hosts with the least first.
    fn hand_out(&self) {
        loop {
            let Some((authority, sender)) = lock(&self.0).admit() else { return };
            // Nothing is locked here: where nobody waits any more, the room comes back by its drop.
            drop(sender.send(Room { rooms: self.clone(), authority }));
        }
    }
}

impl State {
    /// Takes room for the next who may have it.
    fn admit(&mut self) -> Option<(String, oneshot::Sender<Room>)> {
        loop {
            let (all, free) = (self.all, self.free);
            let may_have_more = |held: usize| held == 0 || (held < free / 3 && free > all / 4);
            let may = |host: &Host| free > 0 && !host.waiting.is_empty() && may_have_more(host.held);
            let next = self.hosts.iter().filter(|(_, host)| may(host)).min_by_key(|(_, host)| host.held);
            let authority = next.map(|(authority, _)| authority.clone())?;
            let host = self.hosts.get_mut(&authority)?;
            match host.waiting.pop_front() {
                Some(sender) if !sender.is_closed() => {
                    host.held += 1;
                    self.free -= 1;
                    return Some((authority, sender));
                }
                // Whoever waited gave up.
                _ => self.forget_where_idle(&authority),
            }
        }
    }

    fn forget_where_idle(&mut self, authority: &str) {
        if self.hosts.get(authority).is_some_and(|host| host.held == 0 && host.waiting.is_empty()) {
            self.hosts.remove(authority);
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.rooms.0);
            state.free += 1;
            if let Some(host) = state.hosts.get_mut(&self.authority) {
                host.held = host.held.saturating_sub(1);
            }
            state.forget_where_idle(&self.authority);
        }
        self.rooms.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Takes all that a host is given at once.
    async fn all_of(rooms: &Rooms, authority: &str) -> Vec<Room> {
        let mut held = Vec::new();
        while let Ok(Some(room)) = tokio::time::timeout(Duration::from_millis(10), rooms.take(authority)).await {
            held.push(room);
        }
        held
    }

    #[tokio::test]
    async fn one_host_takes_a_quarter_and_many_leave_room_for_another() {
        let rooms = Rooms::new(256);
        let alone = all_of(&rooms, "slow0.example").await;
        assert_eq!(alone.len(), 64);
        let mut slow = vec![alone];
        for n in 1..40 {
            slow.push(all_of(&rooms, &format!("slow{n}.example")).await);
            assert!(slow.last().is_some_and(|held| !held.is_empty()), "{n}");
        }
        assert!(!all_of(&rooms, "healthy.example").await.is_empty());
        drop(slow);
        assert_eq!(all_of(&rooms, "healthy.example").await.len(), 64, "everything came back");
        assert!(lock(&rooms.0).hosts.is_empty());
    }

    #[tokio::test]
    async fn who_waits_is_given_what_comes_free_and_who_gave_up_is_not() {
        let rooms = Rooms::new(1);
        let first = rooms.take("a.example").await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(10), rooms.take("b.example")).await.is_err());
        let next = tokio::spawn({
            let rooms = rooms.clone();
            async move { rooms.take("c.example").await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(next.await.unwrap());
        assert!(rooms.take("a.example").await.is_some());
    }
}
