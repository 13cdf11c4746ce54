//! What every handler shares.

use std::{
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::extract::FromRef;
use ipnet::IpNet;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::sync::Semaphore;
use valetkey::{Broker, Error, Result, base::Outside, platform};

use crate::failures::Counts;

/// How often samples are folded into histograms.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// How the HTTP faces are set up.
#[derive(Clone, Debug, Default)]
pub struct HttpSettings {
    /// The proxies in front of us whose `X-Forwarded-*` headers count. From anybody else those headers are removed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether `/metrics` answers without a credential: for a listener that only the monitoring reaches.
    pub open_metrics: bool,
}

/// The broker and what the HTTP faces keep beside it; clones share it. Dereferences to the [`Broker`].
#[derive(Clone)]
pub struct AppState(Arc<Inner>);

struct Inner {
    broker: Broker,
    settings: HttpSettings,
    keys: platform::Keys,
    metrics: PrometheusHandle,
    draining: AtomicBool,
    key_work: Arc<Semaphore>,
    failures: Counts,
}

impl AppState {
    /// The state for a broker.
    pub fn new(broker: Broker, settings: HttpSettings) -> Result<Self> {
        let handle = metrics()?;
        let (upkeep, stopping) = (handle.clone(), broker.stopping().clone());
        broker.spawn(async move {
            // Samples that nobody asks for would pile up otherwise.
            while tokio::time::timeout(UPKEEP_EVERY, stopping.cancelled()).await.is_err() {
                upkeep.run_upkeep();
            }
        });
        Ok(Self(Arc::new(Inner {
            keys: broker.oauth().keys().clone(),
            broker,
            settings,
            metrics: handle,
            draining: AtomicBool::new(false),
            key_work: Arc::new(Semaphore::new(1)),
            failures: Counts::default(),
        })))
    }

    /// The broker.
    pub fn broker(&self) -> &Broker {
        &self.0.broker
    }

    /// How the HTTP faces are set up.
    pub fn http(&self) -> &HttpSettings {
        &self.0.settings
    }

    /// The platform keys that call.
    pub(crate) fn keys(&self) -> &platform::Keys {
        &self.0.keys
    }

    /// The metrics of this process, as Prometheus reads them.
    pub fn metrics(&self) -> &PrometheusHandle {
        &self.0.metrics
    }

    /// From now on `/readyz` says no, so that a load balancer sends nothing new.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it is on its way out.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed) || self.0.broker.stopping().is_cancelled()
    }

    /// What failed, by whom.
    pub(crate) fn failures(&self) -> &Counts {
        &self.0.failures
    }

    /// Long work on the sealing keys takes this one place, so that there is one at a time.
    pub(crate) fn key_work(&self) -> Arc<Semaphore> {
        Arc::clone(&self.0.key_work)
    }
}

impl Deref for AppState {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        &self.0.broker
    }
}

impl FromRef<AppState> for Outside {
    fn from_ref(state: &AppState) -> Self {
        state.outside().clone()
    }
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AppState").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

/// The recorder of this process. There can be one; every state shares it.
fn metrics() -> Result<PrometheusHandle> {
    static HANDLE: OnceLock<std::result::Result<PrometheusHandle, String>> = OnceLock::new();
    let handle = HANDLE.get_or_init(|| {
        let seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)
            .map_err(|e| e.to_string())?
            .build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|e| e.to_string())?;
        Ok(handle)
    });
    handle.clone().map_err(Error::internal)
}
