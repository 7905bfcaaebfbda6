/* Starts a container's program in namespaces of its own, or a further program (a probe, a hook) beside it.
 *
 *   launcher start MODE OWNER REPORT ROOT CWD [--remake DIR]... [--bind SOURCE TARGET rw|ro]... -- PROGRAM [ARG]...
 *   launcher join  MODE OWNER REPORT ROOT CWD PID -- PROGRAM [ARG]...
 *
 * MODE is "plain" (namespaces, as root), "user" (the same in a user namespace, as anybody) or "none". OWNER is the pid
 * of whoever starts this: when it ends, however it ends, everything started here ends. REPORT is a file descriptor: a
 * failure to start is written there; end of file without a word means that the program runs. ROOT is an empty folder
 * that the container's root is mounted on, "" where the host's root serves. PID is that of the `start` to join.
 *
 * It is C, not Python between fork and exec, since the pod runner has threads (gRPC's), and code that runs in the
 * child of a process with threads may meet a lock that nobody will ever release.
 *
 * Three processes: this one, seen by the pod runner, waits outside; the second is process 1 of the container's PID
 * namespace and reaps; the third is the program. Signals go down, the exit code comes up, and the kernel ends all
 * that is left in the namespace when process 1 ends.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

enum { START_FAILED = 128, SIGNALLED = 128, MAX_BINDS = 64 };

struct bind {
    const char *source, *target;
    bool read_only;
    int descriptor;
};

static int report = -1;
static const char *root;
static const char *remade[4 * MAX_BINDS];
static size_t remade_count;
static struct bind binds[MAX_BINDS];
static size_t bind_count;

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
    int number = errno;
    va_list arguments;
    va_start(arguments, format);
    vdprintf(report, format, arguments);
    va_end(arguments);
    if (number != 0)
        dprintf(report, ": %s", strerror(number));
    _exit(START_FAILED);
}

/* Returns root + path in a buffer that the next call but one overwrites. */
static const char *inside(const char *path)
{
    static char buffers[2][PATH_MAX];
    static int turn;
    char *buffer = buffers[turn = 1 - turn];
    if (snprintf(buffer, PATH_MAX, "%s%s", root, path) >= PATH_MAX) {
        errno = ENAMETOOLONG;
        fail("path %s", path);
    }
    return buffer;
}

static void write_file(const char *path, const char *text)
{
    int descriptor = open(path, O_WRONLY | O_CLOEXEC);
    if (descriptor < 0 || write(descriptor, text, strlen(text)) < 0)
        fail("cannot write %s", path);
    close(descriptor);
}

/* Makes what a mount goes on, with the folders on the way to it. Those that exist, as most do, are left alone. */
static void make_target(const char *target, bool folder)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", target);
    for (char *slash = strchr(path + strlen(root) + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0755);
        *slash = '/';
    }
    if (folder)
        mkdir(path, 0755);
    else
        close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
}

static bool is_remade(const char *path)
{
    for (size_t i = 0; i < remade_count; i++)
        if (strcmp(remade[i], path) == 0)
            return true;
    return false;
}

/* Binds the host's entries of a folder into the new root, one by one; folders that are remade, likewise. */
static void bind_entries(const char *folder)
{
    DIR *entries = opendir(*folder ? folder : "/");
    if (entries == NULL)
        fail("cannot list %s", folder);
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        char path[PATH_MAX], link[PATH_MAX];
        struct stat status;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) >= (int)sizeof path || lstat(path, &status) != 0)
            continue; /* gone again */
        const char *target = inside(path);
        if (S_ISLNK(status.st_mode)) {
            ssize_t length = readlink(path, link, sizeof link - 1);
            if (length > 0) {
                link[length] = '\0';
                if (symlink(link, target) != 0 && errno != EEXIST)
                    fail("cannot link %s", path);
            }
        } else if (is_remade(path)) {
            if (mkdir(target, 0755) != 0 && errno != EEXIST)
                fail("cannot make %s", path);
            bind_entries(path);
        } else {
            make_target(target, S_ISDIR(status.st_mode));
            /* What the kernel will not bind, such as what has just gone, is left out. */
            (void)mount(path, target, NULL, MS_BIND | MS_REC, NULL);
        }
    }
    closedir(entries);
}

static void make_read_only(const char *target)
{
    struct statvfs status;
    unsigned long flags = MS_REMOUNT | MS_BIND | MS_RDONLY;
    if (statvfs(target, &status) != 0)
        fail("cannot look at %s", target);
    /* In a user namespace what the host's mount forbids must stay forbidden. */
    flags |= (status.f_flag & ST_NOSUID) ? MS_NOSUID : 0;
    flags |= (status.f_flag & ST_NODEV) ? MS_NODEV : 0;
    flags |= (status.f_flag & ST_NOEXEC) ? MS_NOEXEC : 0;
    flags |= (status.f_flag & ST_NOATIME) ? MS_NOATIME : 0;
    flags |= (status.f_flag & ST_NODIRATIME) ? MS_NODIRATIME : 0;
    flags |= (status.f_flag & ST_RELATIME) ? MS_RELATIME : 0;
    if (mount(NULL, target, NULL, flags, NULL) != 0)
        fail("cannot make %s read-only", target);
}

static void enter_new_namespaces(bool user)
{
    uid_t uid = getuid();
    gid_t gid = getgid();
    if (unshare(CLONE_NEWNS | CLONE_NEWPID | (user ? CLONE_NEWUSER : 0)) != 0)
        fail("cannot make namespaces");
    if (user) {
        char map[64];
        write_file("/proc/self/setgroups", "deny");
        snprintf(map, sizeof map, "%u %u 1", uid, uid);
        write_file("/proc/self/uid_map", map);
        snprintf(map, sizeof map, "%u %u 1", gid, gid);
        write_file("/proc/self/gid_map", map);
    }
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        fail("cannot make mounts private");
}

static void make_root(void)
{
    /* Sources are held before anything moves, and in this namespace: the kernel binds those of no other. */
    for (size_t i = 0; i < bind_count; i++)
        if ((binds[i].descriptor = open(binds[i].source, O_PATH | O_CLOEXEC)) < 0)
            fail("cannot mount %s at %s", binds[i].source, binds[i].target);
    if (mount("tmpfs", root, "tmpfs", 0, "mode=755") != 0)
        fail("cannot mount a tmpfs on %s", root);
    bind_entries("");
    for (size_t i = 0; i < bind_count; i++) {
        char source[64];
        struct stat status;
        const char *target = inside(binds[i].target);
        if (fstat(binds[i].descriptor, &status) != 0)
            fail("cannot look at %s", binds[i].source);
        make_target(target, S_ISDIR(status.st_mode));
        snprintf(source, sizeof source, "/proc/self/fd/%d", binds[i].descriptor);
        if (mount(source, target, NULL, MS_BIND | MS_REC, NULL) != 0)
            fail("cannot mount %s at %s", binds[i].source, binds[i].target);
    }
    /* Last, since mounts below a read-only one need their mount points made in it. */
    for (size_t i = 0; i < bind_count; i++)
        if (binds[i].read_only)
            make_read_only(inside(binds[i].target));
    if (chroot(root) != 0)
        fail("cannot change the root to %s", root);
}

static void join_namespaces(const char *pid, bool user)
{
    static const char *const names[] = {"user", "pid_for_children", "mnt"};
    int descriptors[3];
    for (int i = user ? 0 : 1; i < 3; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%s/ns/%s", pid, names[i]);
        if ((descriptors[i] = open(path, O_RDONLY | O_CLOEXEC)) < 0)
            fail("cannot open %s", path);
    }
    for (int i = user ? 0 : 1; i < 3; i++)
        if (setns(descriptors[i], 0) != 0)
            fail("cannot join the container's namespaces");
    if (*root && chroot(root) != 0)
        fail("cannot change the root to %s", root);
}

/* Dies with its parent, which may be dead already: `alive` is a pipe whose other end only the parent holds. */
static void die_with_parent(int alive)
{
    struct pollfd state = {.fd = alive, .events = POLLIN};
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (poll(&state, 1, 0) != 0)
        _exit(START_FAILED);
}

/* Passes signals on to a child until it ends, reaps whatever else ends meanwhile, and exits as the child did. */
__attribute__((noreturn)) static void mind(pid_t child)
{
    sigset_t all;
    sigfillset(&all);
    for (;;) {
        int status, number = sigwaitinfo(&all, NULL);
        pid_t ended;
        if (number > 0 && number != SIGCHLD)
            kill(child, number);
        while ((ended = waitpid(-1, &status, WNOHANG)) > 0)
            if (ended == child)
                _exit(WIFEXITED(status) ? WEXITSTATUS(status) : SIGNALLED + WTERMSIG(status));
    }
}

/* Goes on in a child; the caller minds it. */
static void go_on_in_child(void)
{
    int alive[2];
    if (pipe2(alive, O_CLOEXEC) != 0)
        fail("cannot make a pipe");
    pid_t child = fork();
    if (child < 0)
        fail("cannot fork");
    if (child > 0) {
        close(alive[0]);
        close(report);
        mind(child); /* alive[1] stays open as long as this process lives */
    }
    close(alive[1]);
    die_with_parent(alive[0]);
}

__attribute__((noreturn)) static void run(char **argv, const char *folder)
{
    sigset_t none;
    sigemptyset(&none);
    if (chdir(folder) != 0)
        fail("cannot enter the working directory %s", folder);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvp(argv[0], argv);
    fail("cannot run %s", argv[0]);
}

int main(int argc, char **argv)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    if (argc < 9)
        return 2;
    bool joining = strcmp(argv[1], "join") == 0, user = strcmp(argv[2], "user") == 0;
    bool isolated = strcmp(argv[2], "none") != 0;
    report = atoi(argv[4]);
    root = argv[5];
    const char *folder = argv[6];
    fcntl(report, F_SETFD, FD_CLOEXEC);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != atoi(argv[3]))
        _exit(START_FAILED); /* the owner was dead before the line above */

    const char *pid = joining ? argv[7] : NULL;
    int next = joining ? 8 : 7;
    for (; next < argc && strcmp(argv[next], "--") != 0;) {
        if (strcmp(argv[next], "--remake") == 0 && next + 1 < argc && remade_count < sizeof remade / sizeof *remade) {
            remade[remade_count++] = argv[next + 1];
            next += 2;
        } else if (strcmp(argv[next], "--bind") == 0 && next + 3 < argc && bind_count < MAX_BINDS) {
            binds[bind_count++] = (struct bind){argv[next + 1], argv[next + 2], strcmp(argv[next + 3], "ro") == 0, -1};
            next += 4;
        } else {
            errno = 0;
            fail("unexpected argument %s (at most %d mounts)", argv[next], MAX_BINDS);
        }
    }
    if (++next >= argc) {
        errno = 0;
        fail("no program given");
    }
    if (isolated) {
        if (joining)
            join_namespaces(pid, user);
        else {
            enter_new_namespaces(user);
            if (*root)
                make_root();
        }
        go_on_in_child();
        if (!joining) {
            /* A /proc of the namespace's own processes; the host's stays where the kernel refuses a second one. */
            (void)mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
            go_on_in_child();
        }
    }
    run(argv + next, folder);
}
