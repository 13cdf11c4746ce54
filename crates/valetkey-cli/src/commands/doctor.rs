//! `valetkey doctor`.
use clap::Args;
use super::Session;
use crate::failure::Result;
/// x
#[derive(Args, Debug)]
pub(crate) struct Doctor {}
impl Doctor {
    pub(super) async fn run(self, _session: &Session) -> Result<()> { Ok(()) }
}
