//! The connections that the endpoint holds at once. A newcomer always finds a place: the oldest connection without a request in progress
//! ends for it, so connections that send a request's head byte by byte, or none, silence no probe.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use stoq::limits::{ADMIN_ADDRESS_CONNECTIONS_MAX, ADMIN_CONNECTIONS_MAX};
use tokio::sync::oneshot;

/// The places: for loopback and for other addresses apart.
#[derive(Debug, Default)]
pub(super) struct AdminPlaces(Mutex<Seats>);

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    /// The oldest first.
    taken: Vec<Seat>,
}

#[derive(Debug)]
struct Seat {
    number: u64,
    site: Site,
    is_busy: Arc<AtomicBool>,
    /// Its connection ends once this is dropped.
    _end: oneshot::Sender<()>,
}

/// What shares a number of places: an IPv4 address, or an IPv6 network of 64 bits, which one host has to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    Loopback,
    Address(u64),
}

impl Site {
    fn of(remote: IpAddr) -> Self {
        match remote.to_canonical() {
            ip if ip.is_loopback() => Self::Loopback,
            IpAddr::V4(ip) => Self::Address(u32::from(ip).into()),
            IpAddr::V6(ip) => Self::Address((u128::from(ip) >> 64) as u64),
        }
    }
}

impl AdminPlaces {
    /// A place for a connection from this address; none if all that it could have are taken by requests in progress.
    pub(super) fn take(self: &Arc<Self>, remote: IpAddr) -> Option<AdminPlace> {
        let site = Site::of(remote);
        let mut seats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |seat: &Seat| seat.site == site;
        let is_local = |seat: &Seat| (seat.site == Site::Loopback) == (site == Site::Loopback);
        let count =
            |seats: &Seats, of: &dyn Fn(&Seat) -> bool| seats.taken.iter().filter(|seat| of(seat)).count();
        if site != Site::Loopback && count(&seats, &same) >= ADMIN_ADDRESS_CONNECTIONS_MAX {
            seats.end_oldest(&same)?;
        }
        if count(&seats, &is_local) >= ADMIN_CONNECTIONS_MAX {
            seats.end_oldest(&is_local)?;
        }
        let (end, ended) = oneshot::channel();
        let (number, is_busy) = (seats.next, Arc::new(AtomicBool::new(false)));
        seats.next += 1;
        seats.taken.push(Seat { number, site, is_busy: is_busy.clone(), _end: end });
        Some(AdminPlace { number, is_busy, ended, places: self.clone() })
    }
}

impl Seats {
    /// Ends the oldest of these connections that has no request in progress.
    fn end_oldest(&mut self, of: &dyn Fn(&Seat) -> bool) -> Option<()> {
        let is_idle = |seat: &Seat| of(seat) && !seat.is_busy.load(Ordering::Relaxed);
        let oldest = self.taken.iter().position(is_idle)?;
        self.taken.remove(oldest);
        Some(())
    }
}

/// A connection's place. Dropping it frees it.
#[derive(Debug)]
pub(super) struct AdminPlace {
    number: u64,
    is_busy: Arc<AtomicBool>,
    /// Ready once a newcomer has got this place.
    pub(super) ended: oneshot::Receiver<()>,
    places: Arc<AdminPlaces>,
}

impl AdminPlace {
    /// Set while a request is in progress.
    pub(super) fn is_busy(&self) -> Arc<AtomicBool> {
        self.is_busy.clone()
    }
}

impl Drop for AdminPlace {
    fn drop(&mut self) {
        let mut seats = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        seats.taken.retain(|seat| seat.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn far(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn is_over(place: &mut AdminPlace) -> bool {
        place.ended.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn one_address_has_some_places_and_its_newest_connections_keep_them() {
        let places = Arc::new(AdminPlaces::default());
        let mut other = places.take(far(2)).unwrap();
        let take = |_| places.take(far(1)).unwrap();
        let mut taken: Vec<_> = (0..ADMIN_ADDRESS_CONNECTIONS_MAX + 2).map(take).collect();
        let over = taken.iter_mut().map(is_over).collect::<Vec<_>>();
        assert_eq!(over.iter().position(|over| !over), Some(2), "{over:?}");
        assert!(!over[2..].contains(&true) && !is_over(&mut other));
    }

    #[test]
    fn loopback_keeps_its_places() {
        let places = Arc::new(AdminPlaces::default());
        let mut local = places.take([127, 0, 0, 1].into()).unwrap();
        let mut taken: Vec<_> = (0..200).map(|last| places.take(far(last)).unwrap()).collect();
        assert_eq!(
            taken.iter_mut().filter_map(|place| is_over(place).then_some(())).count(),
            200 - ADMIN_CONNECTIONS_MAX
        );
        assert!(!is_over(&mut local));
    }

    #[test]
    fn a_request_in_progress_keeps_its_place() {
        let places = Arc::new(AdminPlaces::default());
        let mut busy = places.take("fd77::1".parse().unwrap()).unwrap();
        busy.is_busy().store(true, Ordering::Relaxed);
        let address = |host: u16| format!("fd77::{host:x}").parse::<IpAddr>().unwrap();
        let mut taken: Vec<_> = (2..40).map(|host| places.take(address(host)).unwrap()).collect();
        assert!(!is_over(&mut busy));
        let open = |taken: &mut Vec<AdminPlace>| {
            taken.iter_mut().filter_map(|place| (!is_over(place)).then_some(())).count()
        };
        assert_eq!(open(&mut taken), ADMIN_ADDRESS_CONNECTIONS_MAX - 1, "one network of 64 bits is one site");
        taken.iter().for_each(|place| place.is_busy().store(true, Ordering::Relaxed));
        assert!(places.take(address(50)).is_none(), "all have requests in progress");
        drop(busy);
        assert!(places.take(address(50)).is_some());
    }
}
