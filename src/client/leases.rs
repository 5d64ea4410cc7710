//! The leases of a gateway's payloads and sets: calls of a [`Peer`].

use super::call::AnswerChannel;
use super::peer::PendingRequest;
use super::{ClientError, Peer};
use crate::queue::Ask;
#[cfg(doc)]
use crate::record::ErrorCode;
use crate::record::{LeaseScope, List, Listed, ListedEntry, Remove, Renew, Request, Stat};
use crate::token::AnyToken;
use tokio::sync::oneshot;

impl Peer {
    async fn ask_about_leases(&self, request: impl Into<Request>) -> Result<Listed, ClientError> {
        let mut pending = PendingRequest::new(self.link()).await;
        let (reply, answer) = oneshot::channel();
        pending.ask(Ask::new(request), AnswerChannel::Listed(reply));
        pending.answer(answer).await
    }

    /// Asks for a page of the payloads and sets that the gateway keeps. [`Listed::next`] is [`List::after`] of the next page. A page may be empty though
    /// others follow: a gateway looks at a bounded number of its entries for each.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for a request that the peer refuses: with [`ErrorCode::UnknownRecord`] if it is of a
    /// version without lists, with [`ErrorCode::NotAuthorized`] for a client without a certificate or without the right.
    pub async fn list(&self, list: List) -> Result<Listed, ClientError> {
        self.ask_about_leases(list).await
    }

    /// Asks what the gateway keeps of a payload or set, and until when. `None`: nothing, as far as this client may know.
    ///
    /// # Errors
    /// Those of [`Peer::list`].
    pub async fn stat(
        &self,
        token: impl Into<AnyToken>,
        scope: LeaseScope,
    ) -> Result<Option<ListedEntry>, ClientError> {
        let listed = self.ask_about_leases(Stat { scope, token: token.into() }).await?;
        Ok(listed.entries.into_iter().next())
    }

    /// Gives up this client's lease of a payload or set, durably. Returns whether the gateway keeps it for others; if not, it is gone.
    ///
    /// # Errors
    /// Those of [`Peer::list`]; [`ClientError::Refused`] with [`ErrorCode::NotFound`] if this client has no lease of it.
    pub async fn remove(&self, token: impl Into<AnyToken>) -> Result<bool, ClientError> {
        let listed = self.ask_about_leases(Remove { token: token.into() }).await?;
        Ok(!listed.entries.is_empty())
    }

    /// Has this client's lease of a payload or set last at least `lease_s` seconds from now; 0 leaves it to the gateway, which may also bound it. No
    /// lease becomes shorter. Returns what is kept now.
    ///
    /// # Errors
    /// Those of [`Peer::remove`].
    pub async fn renew(
        &self,
        token: impl Into<AnyToken>,
        lease_s: u64,
    ) -> Result<Option<ListedEntry>, ClientError> {
        let listed = self.ask_about_leases(Renew { token: token.into(), lease_s }).await?;
        Ok(listed.entries.into_iter().next())
    }
}
