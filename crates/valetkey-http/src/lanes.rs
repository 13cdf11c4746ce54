//! Lanes: threads that serve connections from the first byte to the last, one for each core.
//!
//! A proxied call is many small steps between two sockets. Where tasks move between threads, a step may wake another core,
//! which took a third of a call's time. A connection stays on its lane, and so do the connections to providers that its
//! calls open (`valetkey::upstream` has a pool for each thread).
//!
//! Nobody takes work over from a lane: what computes for long belongs on `tokio::task::spawn_blocking`.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;

/// Makes the future of a connection on the lane that will drive it: sockets belong to the runtime that they were made in.
type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// The lanes of a process; clones share them. They end, with whatever they still drive, when the last clone is dropped:
/// after the broker has stopped, since its connections to a database may have been opened on a lane.
#[derive(Clone, Debug)]
pub struct Lanes(Arc<Vec<Lane>>);

#[derive(Debug)]
struct Lane {
    jobs: mpsc::UnboundedSender<Job>,
    open: Arc<AtomicUsize>,
}

impl Lanes {
    /// One lane for each core. Errors where the system gives no thread or no way to wait for sockets.
    pub fn start() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (0..cores)
            .map(|number| Lane::start(&format!("lane-{number}")))
            .collect::<io::Result<Vec<_>>>()
            .map(|lanes| Self(Arc::new(lanes)))
    }

    /// Serves one connection on the lane that has the fewest.
    pub(crate) fn serve<F>(&self, connection: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(lane) = self.0.iter().min_by_key(|lane| lane.open.load(Ordering::Relaxed)) else { return };
        let place = Place::on(&lane.open);
        let job: Job = Box::new(move || {
            Box::pin(async move {
                let _place = place;
                connection().await;
            })
        });
        if lane.jobs.send(job).is_err() {
            tracing::error!("a lane has ended; a connection was closed");
        }
    }
}

impl Lane {
    fn start(name: &str) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (jobs, mut waiting) = mpsc::unbounded_channel::<Job>();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async move {
                while let Some(job) = waiting.recv().await {
                    tokio::spawn(async move { job().await });
                }
            });
        })?;
        Ok(Self { jobs, open: Arc::default() })
    }
}

/// A connection on a lane, for as long as it is open.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn on(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_spread_evenly_and_each_stays_on_one_thread() {
        let lanes = Lanes(Arc::new(vec![Lane::start("a").unwrap(), Lane::start("b").unwrap()]));
        let (tell, mut told) = mpsc::unbounded_channel();
        let (end, _) = tokio::sync::broadcast::channel::<()>(1);
        for _ in 0..4 {
            let (tell, mut ended) = (tell.clone(), end.subscribe());
            lanes.serve(move || async move {
                let before = std::thread::current().id();
                tokio::task::yield_now().await;
                let _ = tell.send((before, std::thread::current().id()));
                let _ = ended.recv().await;
            });
        }
        let mut threads = std::collections::HashMap::new();
        for _ in 0..4 {
            let (before, after) = told.recv().await.unwrap();
            assert_eq!(before, after);
            *threads.entry(after).or_insert(0) += 1;
        }
        assert_eq!(threads.into_values().collect::<Vec<_>>(), [2, 2]);
        end.send(()).unwrap();
    }

    #[tokio::test]
    async fn dropping_the_lanes_ends_what_they_drive() {
        let lanes = Lanes::start().unwrap();
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        lanes.serve(move || async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        drop(lanes);
        assert!(ended.await.is_err());
    }
}
