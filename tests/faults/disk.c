/* Disk: a library that is loaded before all others and stands between a process and its disk.
 *
 * It owns what happens to system calls below one folder: it writes them down, and lets the n-th of
 * them fail. It never touches a call on anything else, and never changes what a call that it lets
 * through does, except that FAULTS_SYNC=pretend leaves real syncs out (the record says that they
 * happened, and only what the record says counts then).
 *
 *   FAULTS_BELOW=FOLDER   absolute, without links; everything else passes untouched
 *   FAULTS_LOG=FILE       where calls are written down, in the order in which they took effect
 *   FAULTS_AT=N           the call that fails, counted from 1 among those that FAULTS_KIND can hit
 *   FAULTS_TIMES=N        how many calls fail in a row (1)
 *   FAULTS_ONLY=ENDING    only calls on paths that end so are counted
 *   FAULTS_KIND=eio       any call fails with EIO
 *               enospc    a call that needs space fails with ENOSPC
 *               short     a write writes half of what it was given
 *               eintr     a call that can be interrupted fails with EINTR
 *               sync      a sync fails with EIO and what it should have synced is lost: the kernel
 *                         calls the pages clean, so the next sync of the same file says yes
 *               kill      the process is killed before the call
 *               sync-kill a sync fails as above, and the process is killed before it hears of it
 *               cut       the file system below is shut down before the call, as if the power were
 *                         cut, and the process is killed; for file systems that can (ext4), and root
 *               read      a call that reads from a file fails with EIO; no other call is counted
 *
 *   FAULTS_LOOKS=FILE     how files look to Rust: lines of `inode inode-shown modified-ns-shown`. A disk
 *                         that comes back after a power cut has the inodes and times of before; one
 *                         that was built from a record has not
 *
 * One lock holds from before a call until it is written down, so the record is the order of things.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* What is written down: one header, a path, then another path or the bytes of a write. */
enum { CREATE = 1, MKDIR, WRITE, RESIZE, RENAME, LINK, UNLINK, SYNC, SYNC_ALL, SYNC_LOST, LOOK, FAILED };

struct record {
    uint32_t magic, op;
    uint64_t inode, when; /* when: microseconds since 1970 */
    int64_t modified;     /* nanoseconds since 1970 */
    int64_t at;
    uint32_t path, rest;
};

#define MAGIC 0x6d6c6474u

enum { KIND_NONE, KIND_EIO, KIND_ENOSPC, KIND_SHORT, KIND_EINTR, KIND_SYNC, KIND_KILL, KIND_READ, KIND_SYNC_KILL, KIND_CUT };

/* What a call can suffer, besides EIO and the end of the process. */
enum { CAN_FILL = 1, CAN_SHORT = 2, CAN_INTR = 4, CAN_SYNC = 8, CAN_READ = 16 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char below[PATH_MAX];
static size_t below_len;
static int log_fd = -1, kind, pretend;
static uint64_t counted, fault_at, fault_times = 1;
static const char *only; /* the ending of the paths that count, if not all do */
static const char *current; /* the path of the call that holds the lock */

static void read_looks(const char *path);

static void start(void) {
    const char *folder = getenv("FAULTS_BELOW"), *file = getenv("FAULTS_LOG");
    const char *at = getenv("FAULTS_AT"), *what = getenv("FAULTS_KIND");
    const char *times = getenv("FAULTS_TIMES"), *sync = getenv("FAULTS_SYNC");
    if (!folder || strlen(folder) >= sizeof below) return;
    strcpy(below, folder);
    below_len = strlen(below);
    if (file) {
        log_fd = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (log_fd < 0) { dprintf(2, "faults: cannot write %s\n", file); _exit(125); }
    }
    if (at) fault_at = strtoull(at, NULL, 10);
    if (times) fault_times = strtoull(times, NULL, 10);
    only = getenv("FAULTS_ONLY");
    pretend = sync && !strcmp(sync, "pretend");
    if (getenv("FAULTS_LOOKS")) read_looks(getenv("FAULTS_LOOKS"));
    static const char *const names[] = {"", "eio", "enospc", "short", "eintr", "sync", "kill", "read", "sync-kill", "cut"};
    for (int i = 1; what && i <= KIND_CUT; i++)
        if (!strcmp(what, names[i])) kind = i;
    if (what && !kind) { dprintf(2, "faults: no kind %s\n", what); _exit(125); }
}

/* How files look. */
static struct look { unsigned long long inode, shown; long long modified; } looks[4096];
static size_t looks_len;
static struct stat home;

static void read_looks(const char *path) {
    FILE *file = fopen(path, "re");
    if (!file) { dprintf(2, "faults: cannot read %s\n", path); _exit(125); }
    struct look *one = looks;
    while (looks_len < 4096 && fscanf(file, "%llu %llu %lld", &one->inode, &one->shown, &one->modified) == 3)
        one = looks + ++looks_len;
    fclose(file);
    if (stat(below, &home)) _exit(125);
}

static int is_below(const char *path) {
    return !strncmp(path, below, below_len) && (path[below_len] == '/' || !path[below_len]);
}

/* Whether the call concerns us; from then on the lock is held. */
static int mine(const char *path) {
    pthread_once(&once, start);
    if (!below_len || !is_below(path)) return 0;
    pthread_mutex_lock(&lock);
    current = path;
    return 1;
}

static int path_of_fd(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
    if (len < 0) { out[0] = 0; return 0; }
    out[len] = 0;
    return 1;
}

static void path_at(int folder, const char *path, char *out) {
    if (path[0] == '/') { snprintf(out, PATH_MAX, "%s", path); return; }
    char base[PATH_MAX];
    if (folder == AT_FDCWD) { if (!getcwd(base, sizeof base)) base[0] = 0; }
    else path_of_fd(folder, base);
    if (snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) out[0] = 0;
}

static int error_of_kind(void) {
    return kind == KIND_ENOSPC ? ENOSPC : kind == KIND_EINTR ? EINTR : EIO;
}

static int64_t modified; /* of the file that is put next; 0 if it has not changed */

static void put(int op, uint64_t inode, int64_t at, const char *path, const void *rest, size_t len) {
    if (log_fd < 0) { modified = 0; return; }
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t when = now.tv_sec * 1000000ull + now.tv_nsec / 1000;
    struct record record = {MAGIC, op, inode, when, modified, at, strlen(path), len};
    struct iovec parts[3] = {{&record, sizeof record}, {(void *)path, record.path}, {(void *)rest, len}};
    ssize_t all = sizeof record + record.path + len;
    if (syscall(SYS_writev, log_fd, parts, 3) != all) { dprintf(2, "faults: the record is full\n"); _exit(125); }
    modified = 0;
}

static void note(const struct stat *found) {
    modified = found->st_mtim.tv_sec * 1000000000ll + found->st_mtim.tv_nsec;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Nothing that the file system has not written yet is ever written: FS_IOC_SHUTDOWN, without a flush of its log. */
static void cut(void) {
    uint32_t without_flush = 2;
    int folder = syscall(SYS_openat, AT_FDCWD, below, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (syscall(SYS_ioctl, folder, _IOR('X', 125, uint32_t), &without_flush)) {
        dprintf(2, "faults: cannot cut the power of %s: %s\n", below, strerror(errno));
        _exit(125);
    }
    die();
}

/* Counts a call; returns whether this is the one that fails. Kills the process if it is that one. */
static int fails(int can) {
    int hit = kind == KIND_EIO || kind == KIND_KILL || kind == KIND_CUT || (kind == KIND_ENOSPC && can & CAN_FILL) ||
              (kind == KIND_SHORT && can & CAN_SHORT) || (kind == KIND_EINTR && can & CAN_INTR) ||
              ((kind == KIND_SYNC || kind == KIND_SYNC_KILL) && can & CAN_SYNC) || (kind == KIND_READ && can & CAN_READ);
    size_t path_len = strlen(current), only_len = only ? strlen(only) : 0;
    if (!hit || path_len < only_len || strcmp(current + path_len - only_len, only_len ? only : current + path_len)) return 0;
    counted++;
    if (!fault_at || counted < fault_at || counted >= fault_at + fault_times) return 0;
    put(FAILED, 0, 0, current, "", 0);
    if (kind == KIND_CUT) cut();
    if (kind == KIND_KILL) die();
    return 1;
}

static long done(long result, int error) {
    pthread_mutex_unlock(&lock);
    if (result < 0) errno = error;
    return result;
}

static uint64_t inode_at(const char *path) {
    struct stat found;
    return fstatat(AT_FDCWD, path, &found, AT_SYMLINK_NOFOLLOW) ? 0 : found.st_ino;
}

/* ---- opening and creating */

static int opening(int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    path_at(folder, name, path);
    if (!mine(path)) return syscall(SYS_openat, folder, name, flags, mode);
    int can = CAN_INTR | (flags & O_CREAT ? CAN_FILL : 0);
    if (fails(can)) return done(-1, error_of_kind());
    uint64_t before = flags & O_CREAT ? inode_at(path) : 1;
    int fd = syscall(SYS_openat, folder, name, flags, mode), error = errno;
    struct stat found;
    if (fd >= 0 && !fstat(fd, &found)) {
        note(&found);
        if (!before) put(CREATE, found.st_ino, 0, path, "", 0);
        else if (flags & O_TRUNC) put(RESIZE, found.st_ino, 0, path, "", 0);
        else put(LOOK, found.st_ino, 0, path, "", 0);
    }
    return done(fd, error);
}

#define OPEN(name)                                                                     \
    int name(const char *path, int flags, ...) {                                       \
        va_list more; va_start(more, flags);                                           \
        mode_t mode = va_arg(more, mode_t); va_end(more);                              \
        return opening(AT_FDCWD, path, flags, mode);                                   \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name)                                                                   \
    int name(int folder, const char *path, int flags, ...) {                           \
        va_list more; va_start(more, flags);                                           \
        mode_t mode = va_arg(more, mode_t); va_end(more);                              \
        return opening(folder, path, flags, mode);                                     \
    }
OPENAT(openat)
OPENAT(openat64)

int mkdirat(int folder, const char *name, mode_t mode) {
    char path[PATH_MAX];
    path_at(folder, name, path);
    if (!mine(path)) return syscall(SYS_mkdirat, folder, name, mode);
    if (fails(CAN_FILL)) return done(-1, error_of_kind());
    int result = syscall(SYS_mkdirat, folder, name, mode), error = errno;
    if (!result) put(MKDIR, inode_at(path), 0, path, "", 0);
    return done(result, error);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* ---- writing */

static ssize_t writing(int fd, const struct iovec *from, int parts, off_t at, int op) {
    char path[PATH_MAX];
    struct iovec cut[1];
    struct stat found;
    int ours = path_of_fd(fd, path) && mine(path);
    int fault = ours && fails(CAN_FILL | CAN_SHORT | CAN_INTR);
    if (fault && kind != KIND_SHORT) return done(-1, error_of_kind());
    if (fault && from[0].iov_len > 1) {
        cut[0] = (struct iovec){from[0].iov_base, from[0].iov_len / 2};
        from = cut, parts = 1;
    }
    if (ours && at < 0) {
        int append = fcntl(fd, F_GETFL) & O_APPEND;
        at = append && !fstat(fd, &found) ? found.st_size : lseek(fd, 0, SEEK_CUR);
        op = SYS_writev;
    }
    ssize_t count = op == SYS_writev ? syscall(SYS_writev, fd, from, parts)
                                     : syscall(SYS_pwritev, fd, from, parts, (long)at, 0L);
    if (!ours) return count;
    int error = errno;
    size_t left = count > 0 ? count : 0;
    if (left && !fstat(fd, &found))
        for (int i = 0; i < parts && left; i++) {
            size_t len = from[i].iov_len < left ? from[i].iov_len : left;
            note(&found);
            put(WRITE, found.st_ino, at, path, from[i].iov_base, len);
            at += len, left -= len;
        }
    return done(count, error);
}

ssize_t write(int fd, const void *bytes, size_t len) {
    struct iovec one = {(void *)bytes, len};
    return writing(fd, &one, 1, -1, SYS_writev);
}
ssize_t writev(int fd, const struct iovec *from, int parts) { return writing(fd, from, parts, -1, SYS_writev); }
#define PWRITE(name, off)                                                              \
    ssize_t name(int fd, const void *bytes, size_t len, off at) {                      \
        struct iovec one = {(void *)bytes, len};                                       \
        return writing(fd, &one, 1, at, SYS_pwritev);                                  \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

static int resizing(int fd, off_t size) {
    char path[PATH_MAX];
    struct stat found;
    if (!path_of_fd(fd, path) || !mine(path)) return syscall(SYS_ftruncate, fd, size);
    if (fails(CAN_INTR)) return done(-1, error_of_kind());
    int result = syscall(SYS_ftruncate, fd, size), error = errno;
    if (!result && !fstat(fd, &found)) {
        note(&found);
        put(RESIZE, found.st_ino, size, path, "", 0);
    }
    return done(result, error);
}
int ftruncate(int fd, off_t size) { return resizing(fd, size); }
int ftruncate64(int fd, off64_t size) { return resizing(fd, size); }

static int reserving(int fd, int mode, off_t at, off_t len) {
    char path[PATH_MAX];
    struct stat before, after;
    if (!path_of_fd(fd, path) || !mine(path)) return syscall(SYS_fallocate, fd, mode, at, len);
    if (fails(CAN_FILL | CAN_INTR)) return done(-1, error_of_kind());
    int known = !fstat(fd, &before);
    int result = syscall(SYS_fallocate, fd, mode, at, len), error = errno;
    if (!result && known && !fstat(fd, &after) && after.st_size != before.st_size)
        put(RESIZE, after.st_ino, after.st_size, path, "", 0);
    return done(result, error);
}
int fallocate(int fd, int mode, off_t at, off_t len) { return reserving(fd, mode, at, len); }
int fallocate64(int fd, int mode, off64_t at, off64_t len) { return reserving(fd, mode, at, len); }
int posix_fallocate(int fd, off_t at, off_t len) { return reserving(fd, 0, at, len) ? errno : 0; }
int posix_fallocate64(int fd, off64_t at, off64_t len) { return reserving(fd, 0, at, len) ? errno : 0; }

/* Copies inside of the kernel could not be written down; callers fall back to reading and writing. */
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t len, unsigned flags) {
    char path[PATH_MAX];
    if (!path_of_fd(out, path) || !mine(path)) return syscall(SYS_copy_file_range, in, from, out, to, len, flags);
    return done(-1, ENOSYS);
}

/* ---- reading */

static ssize_t reading(int fd, void *bytes, size_t len, off_t at) {
    char path[PATH_MAX];
    pthread_once(&once, start);
    if (kind == KIND_READ && path_of_fd(fd, path) && mine(path)) {
        int fault = fails(CAN_READ);
        pthread_mutex_unlock(&lock);
        if (fault) { errno = EIO; return -1; }
    }
    return at < 0 ? syscall(SYS_read, fd, bytes, len) : syscall(SYS_pread64, fd, bytes, len, at);
}
ssize_t read(int fd, void *bytes, size_t len) { return reading(fd, bytes, len, -1); }
ssize_t pread(int fd, void *bytes, size_t len, off_t at) { return reading(fd, bytes, len, at); }
ssize_t pread64(int fd, void *bytes, size_t len, off64_t at) { return reading(fd, bytes, len, at); }

/* ---- looking */

int statx(int folder, const char *path, int flags, unsigned mask, struct statx *out) {
    pthread_once(&once, start);
    int result = syscall(SYS_statx, folder, path, flags, mask, out);
    if (result || !looks_len || makedev(out->stx_dev_major, out->stx_dev_minor) != home.st_dev) return result;
    for (size_t i = 0; i < looks_len; i++)
        if (looks[i].inode == out->stx_ino) {
            out->stx_ino = looks[i].shown;
            out->stx_mtime.tv_sec = looks[i].modified / 1000000000;
            out->stx_mtime.tv_nsec = looks[i].modified % 1000000000;
            break;
        }
    return result;
}

/* ---- names */

static int renaming(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    char source[PATH_MAX], target[PATH_MAX];
    path_at(from_at, from, source);
    path_at(to_at, to, target);
    if (!mine(target)) return syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    if (fails(CAN_FILL)) return done(-1, error_of_kind());
    uint64_t inode = inode_at(source);
    int result = syscall(SYS_renameat2, from_at, from, to_at, to, flags), error = errno;
    if (!result) put(RENAME, inode, 0, source, target, strlen(target));
    return done(result, error);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return renaming(a, from, b, to, flags); }
int renameat(int a, const char *from, int b, const char *to) { return renaming(a, from, b, to, 0); }
int rename(const char *from, const char *to) { return renaming(AT_FDCWD, from, AT_FDCWD, to, 0); }

int linkat(int a, const char *from, int b, const char *to, int flags) {
    char source[PATH_MAX], target[PATH_MAX];
    path_at(a, from, source);
    path_at(b, to, target);
    if (!mine(target)) return syscall(SYS_linkat, a, from, b, to, flags);
    if (fails(CAN_FILL)) return done(-1, error_of_kind());
    int result = syscall(SYS_linkat, a, from, b, to, flags), error = errno;
    if (!result) put(LINK, inode_at(target), 0, source, target, strlen(target));
    return done(result, error);
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int folder, const char *name, int flags) {
    char path[PATH_MAX];
    path_at(folder, name, path);
    if (!mine(path)) return syscall(SYS_unlinkat, folder, name, flags);
    if (fails(0)) return done(-1, error_of_kind());
    uint64_t inode = inode_at(path);
    int result = syscall(SYS_unlinkat, folder, name, flags), error = errno;
    if (!result) put(UNLINK, inode, 0, path, "", 0);
    return done(result, error);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

/* ---- making durable */

static int syncing(int fd, long call, int op) {
    char path[PATH_MAX];
    struct stat found;
    if (!path_of_fd(fd, path) || !mine(path)) return syscall(call, fd);
    found.st_ino = 0;
    int known = !fstat(fd, &found);
    if (fails(CAN_SYNC | CAN_INTR)) {
        /* Interrupted means not tried: nothing is lost by that. */
        if (kind != KIND_EINTR && known) put(SYNC_LOST, found.st_ino, op == SYNC_ALL, path, "", 0);
        if (kind == KIND_SYNC_KILL) die();
        return done(-1, error_of_kind());
    }
    int result = pretend ? 0 : syscall(call, fd), error = errno;
    if (!result && known) put(op, found.st_ino, 0, path, "", 0);
    return done(result, error);
}
int fsync(int fd) { return syncing(fd, SYS_fsync, SYNC); }
int fdatasync(int fd) { return syncing(fd, SYS_fdatasync, SYNC); }
int syncfs(int fd) { return syncing(fd, SYS_syncfs, SYNC_ALL); }

/* Only a hint to begin writing: it makes nothing durable. */
int sync_file_range(int fd, off64_t at, off64_t len, unsigned flags) {
    char path[PATH_MAX];
    if (!path_of_fd(fd, path) || !mine(path)) return syscall(SYS_sync_file_range, fd, at, len, flags);
    if (fails(CAN_INTR)) return done(-1, error_of_kind());
    return done(0, 0);
}
