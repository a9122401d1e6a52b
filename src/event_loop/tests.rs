use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use tokio::sync::oneshot;

use super::*;

/// Runs `main` on a loop of its own, in this thread.
fn run<F: Future<Output = ()> + 'static>(main: impl FnOnce(Rc<EventLoop>) -> F) {
    let events = EventLoop::new().unwrap();
    events.run(main(Rc::clone(&events))).unwrap();
}

/// Two ends of a connection; the first one does not block.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    near.set_nonblocking(true).unwrap();
    (near, listener.accept().unwrap().0)
}

async fn readable(socket: &Watched<TcpStream>) {
    poll_fn(|_| if socket.is_readable() { Poll::Ready(()) } else { Poll::Pending }).await;
}

#[test]
fn a_task_hears_of_bytes_of_the_end_and_of_failure() {
    run(|events| async move {
        let (near, mut far) = pair();
        let near = events.watch(near, Interest::Read).unwrap();
        let mut buffer = [0; 8];
        for _ in 0..3 {
            far.write_all(b"word").unwrap();
            readable(&near).await;
            assert_eq!(near.get_ref().read(&mut buffer).unwrap(), 4);
            near.mark_dry();
        }
        assert!(!near.has_ended());
        far.shutdown(std::net::Shutdown::Write).unwrap();
        readable(&near).await;
        assert!(near.has_ended() && !near.has_failed());
        crate::socket::reset_on_close(&far);
        drop(far);
        poll_fn(|_| if near.has_failed() { Poll::Ready(()) } else { Poll::Pending }).await;
    });
}

#[test]
fn a_full_socket_is_told_of_when_it_has_room() {
    run(|events| async move {
        let (near, mut far) = pair();
        let near = events.watch(near, Interest::Read).unwrap();
        assert!(near.is_writable(), "until a write finds otherwise");
        let mut sent = 0;
        while let Ok(count) = near.get_ref().write(&[7; 65536]) {
            sent += count;
        }
        near.mark_full().unwrap();
        let reader = thread::spawn(move || far.read_exact(&mut vec![0; sent]).unwrap());
        poll_fn(|_| if near.is_writable() { Poll::Ready(()) } else { Poll::Pending }).await;
        reader.join().unwrap();
    });
}

#[test]
fn urgent_data_is_told_of() {
    run(|events| async move {
        let (near, far) = pair();
        let near = events.watch(near, Interest::Read).unwrap();
        let far = socket2::Socket::from(far);
        far.send(b"ab").unwrap();
        readable(&near).await;
        assert!(!near.had_urgent_data());
        far.send_out_of_band(b"!").unwrap();
        poll_fn(|_| if near.had_urgent_data() { Poll::Ready(()) } else { Poll::Pending }).await;
    });
}

#[test]
fn events_of_a_closed_socket_do_not_reach_the_next_in_its_place() {
    run(|events| async move {
        let (first, _far) = pair();
        let first = events.watch(first, Interest::Read).unwrap();
        let name = events.sources.borrow().name_of(&first);
        drop(first);
        let (second, _far) = pair();
        let second = events.watch(second, Interest::Read).unwrap();
        let late = EpollEvent::new(EpollFlags::EPOLLIN, name);
        assert_eq!(events.sources.borrow_mut().note(&late), None);
        assert!(!second.is_readable());
        let bell = EpollEvent::new(EpollFlags::EPOLLIN, BELL);
        assert_eq!(events.sources.borrow_mut().note(&bell), None);
    });
}

#[test]
fn time_passes_and_no_deadline_is_early() {
    run(|events| async move {
        let begun = Instant::now();
        events.sleep_until(begun + Duration::from_millis(30)).await;
        assert!(begun.elapsed() >= Duration::from_millis(30));
        let never = std::future::pending::<()>();
        let soon = events.now() + Duration::from_millis(10);
        assert_eq!(events.until(soon, never).await, None);
        assert!(Instant::now() >= soon);
        let late = events.now() + Duration::from_secs(3600);
        assert_eq!(events.until(late, async { 7 }).await, Some(7));
    });
}

#[test]
fn others_wake_a_task_from_any_thread_and_from_its_own() {
    run(|events| async move {
        let (send, receive) = oneshot::channel();
        let waker = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            send.send(1).unwrap();
        });
        assert_eq!(receive.await, Ok(1));
        waker.join().unwrap();
        let (send, receive) = oneshot::channel();
        events.spawn(async move { send.send(2).unwrap() });
        assert_eq!(receive.await, Ok(2));
    });
}

#[test]
fn all_have_their_turn() {
    run(|events| async move {
        let done = Rc::new(Cell::new(0));
        for _ in 0..3 {
            let (events_of_task, done) = (Rc::clone(&events), Rc::clone(&done));
            events.spawn(async move {
                for _ in 0..100 {
                    events_of_task.give_way().await;
                }
                done.set(done.get() + 1);
            });
        }
        for _ in 0..102 {
            events.give_way().await;
        }
        assert_eq!(done.get(), 3);
    });
}

#[test]
fn a_task_that_panics_ends_alone() {
    struct Told(Rc<Cell<bool>>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    run(|events| async move {
        let dropped = Rc::new(Cell::new(false));
        let told = Told(Rc::clone(&dropped));
        events.spawn(async move {
            let _told = told;
            panic!("this panic belongs to the test");
        });
        while !dropped.get() {
            events.give_way().await;
        }
        // Its place serves again.
        let (send, receive) = oneshot::channel();
        events.spawn(async move { send.send(()).unwrap() });
        receive.await.unwrap();
    });
}

#[test]
fn what_is_unfinished_is_dropped_at_the_end() {
    let alive = Rc::new(());
    let of_task = Rc::clone(&alive);
    run(|events| async move {
        let (near, _far) = pair();
        let within = Rc::clone(&events);
        events.spawn(async move {
            let _alive = of_task;
            let socket = within.watch(near, Interest::Read).unwrap();
            readable(&socket).await;
        });
        events.give_way().await;
    });
    assert_eq!(Rc::strong_count(&alive), 1);
}

#[test]
fn many_tasks_with_many_deadlines_all_come_back() {
    run(|events| async move {
        let left = Rc::new(Cell::new(2000));
        for index in 0..2000_u64 {
            let (within, left) = (Rc::clone(&events), Rc::clone(&left));
            events.spawn(async move {
                let long = within.now() + Duration::from_secs(3600);
                let short = within.now() + Duration::from_millis(index % 50);
                // The long deadline is asked for first, the short one counts.
                let nap = within.sleep_until(short);
                within.until(long, nap).await.unwrap();
                left.set(left.get() - 1);
            });
        }
        let patience = events.now() + Duration::from_secs(20);
        while left.get() > 0 {
            assert!(events.now() < patience);
            events.sleep_until(events.now() + Duration::from_millis(5)).await;
        }
    });
}
