use super::*;

fn refused(range: &Range, text: &str) -> String {
    range.check_text(text).expect_err("it is out of the range")
}

#[test]
fn every_row_has_ordered_bounds_a_unique_name_and_reasons() {
    let mut names: Vec<_> = KEYS.iter().chain(OPTIONS).map(|range| range.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "two rows have the same name");
    for range in KEYS.iter().chain(OPTIONS) {
        let (has_below, has_above) = match range.bounds {
            Bounds::Whole(min, max) => {
                assert!(min < max, "{range:?}");
                (min > 0, max < u64::MAX)
            }
            Bounds::Real(min, max) => {
                assert!(min < max && min >= 0.0, "{range:?}");
                (true, true)
            }
        };
        assert!(
            (!has_below || !range.below.is_empty()) && (!has_above || !range.above.is_empty()),
            "{range:?}"
        );
    }
    // A file's numbers have this bound.
    assert!(KEYS.iter().all(|range| matches!(range.bounds, Bounds::Whole(_, max) if max <= i64::MAX as u64)));
}

#[test]
fn border_values_pass_and_the_next_values_outside_do_not() {
    for range in KEYS.iter().chain(OPTIONS) {
        match range.bounds {
            Bounds::Whole(min, max) => {
                let (min, max) = (i128::from(min), i128::from(max));
                assert_eq!((range.check_whole(min), range.check_whole(max)), (Ok(()), Ok(())), "{range:?}");
                assert!(range.check_whole(max + 1).unwrap_err().contains("is too large: "));
                assert_eq!(range.check_whole(min - 1).is_ok(), min == 1 && range.zero.is_some(), "{range:?}");
                assert_eq!(range.check_whole(0).is_ok(), min == 0 || range.zero.is_some());
                assert!(range.check_whole(-1).unwrap_err().contains("too small"));
                assert!(range.check_real(1.5).unwrap_err().contains("is no whole number"));
            }
            Bounds::Real(min, max) => {
                assert_eq!((range.check_real(min), range.check_real(max)), (Ok(()), Ok(())), "{range:?}");
                assert!(range.check_real(max.next_up()).unwrap_err().contains("is too large: "));
                assert!(range.check_real(min.next_down()).unwrap_err().contains("too small"), "{range:?}");
                for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
                    range.check_real(wrong).unwrap_err();
                }
            }
        }
        assert!(refused(range, "ten").contains("is no number; give"));
    }
}

#[test]
fn an_error_names_the_value_the_reason_and_the_range() {
    let window = key("quic.stream_receive_window_bytes").unwrap();
    assert_eq!(
        refused(window, "1"),
        "1 is too small: messages of 64 KiB that arrive together would fill it, and a peer would wait forever; give 131072 to 1073741824 bytes"
    );
    let idle = key("quic.idle_timeout_ms").unwrap();
    assert!(refused(idle, "999").ends_with("give 1000 to 86400000 milliseconds, or 0 for never"));
    assert!(refused(idle, "99999999999999999999999999999999999999999999").contains("too large"));
    assert!(refused(idle, "1e3").contains("whole number"));
    assert_eq!(key("quic.nothing"), None);
}

#[test]
fn a_file_is_checked_in_every_section() {
    let check = |text: &str| check_keys(&text.parse().unwrap());
    assert_eq!(check("[workers]\ncount = 1\ncores = [0, 1]\n[log]\nlevel = \"info\""), Ok(()));
    for (text, key) in [
        ("[workers]\ncount = 0", "workers.count"),
        ("[workers]\ncores = [0, 1024]", "workers.cores"),
        ("[workers]\ncount = -1", "workers.count"),
        ("[workers]\ncount = 1.0", "workers.count"),
        ("[workers]\ncount = nan", "workers.count"),
        ("[[network.port]]\nmtu = 1500\n[[network.port]]\nmtu = 1279", "network.port.mtu"),
        ("[[application]]\nqueues = [0]\n[[application]]\nqueues = [-1]", "application.queues"),
    ] {
        assert_eq!(check(text).unwrap_err().0, key, "{text}");
    }
}
