//! A seccomp filter that asks another process about some system calls (seccomp_unotify(2)).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// One question of the kernel's: may this call go on?
#[derive(Clone, Copy, Debug)]
pub struct Question {
    id: u64,
    /// The system call's number.
    pub call: i64,
}

/// What is asked about.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Numbers of system calls.
    pub calls: Vec<i64>,
    /// `openat` as well, when its flags have one of these bits.
    pub openat_flags: u32,
}

impl Filter {
    /// As instructions of the kernel's (`seccomp_data` in linux/seccomp.h: number at 0, the third argument at 32).
    fn program(&self) -> Vec<libc::sock_filter> {
        let instruction = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
            code: u16::try_from(code).expect("a code fits"),
            jt,
            jf,
            k,
        };
        let (load, equal, any, end) = (
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K,
            libc::BPF_RET | libc::BPF_K,
        );
        let number = |call: i64| u32::try_from(call).expect("a number fits");
        let mut program = vec![instruction(load, 0, 0, 0)];
        for call in &self.calls {
            program.push(instruction(equal, 0, 1, number(*call)));
            program.push(instruction(end, 0, 0, libc::SECCOMP_RET_USER_NOTIF));
        }
        program.extend([
            instruction(equal, 0, 3, number(libc::SYS_openat)),
            instruction(load, 0, 0, 32),
            instruction(any, 0, 1, self.openat_flags),
            instruction(end, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
            instruction(end, 0, 0, libc::SECCOMP_RET_ALLOW),
        ]);
        program
    }

    /// Makes `command` start under the filter. The listener comes out of the returned end once it runs.
    pub fn apply(&self, command: &mut Command) -> io::Result<OwnedFd> {
        let mut ends = [0; 2];
        // SAFETY: the array holds two descriptors.
        check(unsafe {
            libc::socketpair(
                libc::AF_UNIX,
                libc::SOCK_STREAM | libc::SOCK_CLOEXEC,
                0,
                ends.as_mut_ptr(),
            )
        })?;
        // SAFETY: both were just made and belong to nobody else.
        let (ours, theirs) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
        let program = self.program();
        // SAFETY: between fork and exec only system calls are made, on memory that was prepared before.
        unsafe {
            command.pre_exec(move || install(&program, theirs.as_raw_fd()));
        }
        Ok(ours)
    }
}

/// Installs the program on this process and sends its listener away.
fn install(program: &[libc::sock_filter], to: RawFd) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let prog = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the program outlives the call, which copies it.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const prog,
        )
    };
    let listener = i32::try_from(listener).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    check(listener)?;
    let byte = [0_u8];
    let mut part = libc::iovec {
        iov_base: byte.as_ptr().cast_mut().cast(),
        iov_len: 1,
    };
    let mut control = [0_u64; 4];
    // SAFETY: the message points at live memory of the sizes given; CMSG_SPACE of one descriptor is 24 bytes.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(listener);
        match libc::sendmsg(to, &raw const message, 0) {
            1 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Takes the listener that a started command has sent.
pub fn listener(from: &OwnedFd) -> io::Result<OwnedFd> {
    let mut byte = [0_u8];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = [0_u64; 4];
    // SAFETY: as in `install`; the descriptor that arrives belongs to nobody else.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = std::mem::size_of_val(&control) as _;
        if libc::recvmsg(from.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) != 1 {
            return Err(io::Error::other("no listener was sent"));
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() {
            return Err(io::Error::other("the message has no descriptor"));
        }
        Ok(OwnedFd::from_raw_fd(
            libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned(),
        ))
    }
}

/// Waits for the next question; `None` when whoever asked has ended.
pub fn receive(listener: &OwnedFd) -> io::Result<Option<Question>> {
    loop {
        let mut ready = libc::pollfd {
            fd: listener.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry, alive during the call.
        check(unsafe { libc::poll(&raw mut ready, 1, -1) })?;
        if ready.revents & libc::POLLIN == 0 {
            return Ok(None);
        }
        // SAFETY: the structure is plain data, and must be zero before the call.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the request's size is that of the structure it names.
        let received = unsafe { libc::ioctl(listener.as_raw_fd(), request(true, 0, 80), &raw mut asked) };
        match check(received) {
            Ok(()) => {
                return Ok(Some(Question {
                    id: asked.id,
                    call: i64::from(asked.data.nr),
                }));
            }
            // The thread that asked was interrupted or killed.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Answers: `None` lets the call go on, else it fails with that error.
pub fn answer(listener: &OwnedFd, question: Question, errno: Option<i32>) -> io::Result<()> {
    let mut said = libc::seccomp_notif_resp {
        id: question.id,
        val: 0,
        error: errno.map_or(0, |errno| -errno),
        flags: if errno.is_none() {
            libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as _
        } else {
            0
        },
    };
    // SAFETY: the request's size is that of the structure it names.
    match check(unsafe { libc::ioctl(listener.as_raw_fd(), request(true, 1, 24), &raw mut said) }) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// `_IOWR('!', number, size)` of linux/seccomp.h.
fn request(both_ways: bool, number: u32, size: u32) -> libc::Ioctl {
    let direction = if both_ways { 3_u32 } else { 1 };
    libc::Ioctl::from((direction << 30) | (size << 16) | (u32::from(b'!') << 8) | number)
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
