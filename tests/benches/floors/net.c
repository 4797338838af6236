/* The fewest system calls that make or remove the lab's network: a named network namespace, a veth pair with the peer
 * inside, both addresses, the links up, the default route, forwarding.
 *
 * usage: net-floor up NAME | down NAME | drop NAME
 *
 * down returns when the host end is gone, drop when the namespace has lost its name: the kernel removes the pair later.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#define TRY(call) do { if ((call) < 0) die(#call); } while (0)
#define HOST_ADDRESS "192.168.11.1"
#define CONTAINER_ADDRESS "192.168.11.2"

static char netns_path[64], host_link[IFNAMSIZ], container_link[IFNAMSIZ];

/* Messages are gathered here and go to the kernel in one piece. */
static char request[4096];
static int used, messages;

static void die(const char *what)
{
    dprintf(2, "net-floor: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static struct nlmsghdr *begin(int type, int flags, const void *body, int length)
{
    struct nlmsghdr *message = (void *)(request + used);
    message->nlmsg_type = type;
    message->nlmsg_flags = NLM_F_REQUEST | flags;
    message->nlmsg_seq = ++messages;
    message->nlmsg_len = NLMSG_LENGTH(length);
    memcpy(NLMSG_DATA(message), body, length);
    return message;
}

static struct rtattr *add(struct nlmsghdr *message, int type, const void *data, int length)
{
    struct rtattr *attribute = (void *)((char *)message + NLMSG_ALIGN(message->nlmsg_len));
    attribute->rta_type = type;
    attribute->rta_len = RTA_LENGTH(length);
    if (length > 0)
        memcpy(RTA_DATA(attribute), data, length);
    message->nlmsg_len = NLMSG_ALIGN(message->nlmsg_len) + RTA_ALIGN(attribute->rta_len);
    return attribute;
}

static void close_nest(struct nlmsghdr *message, struct rtattr *nest)
{
    nest->rta_len = (char *)message + message->nlmsg_len - (char *)nest;
}

static void end(struct nlmsghdr *message)
{
    used += NLMSG_ALIGN(message->nlmsg_len);
}

static void transact(int socket)
{
    char reply[4096];
    TRY(send(socket, request, used, 0));
    for (int wanted = messages; wanted > 0;) {
        int length = recv(socket, reply, sizeof reply, 0);
        TRY(length);
        for (struct nlmsghdr *message = (void *)reply; NLMSG_OK(message, length); message = NLMSG_NEXT(message, length)) {
            errno = -((struct nlmsgerr *)NLMSG_DATA(message))->error;
            if (message->nlmsg_type != NLMSG_ERROR || errno != 0)
                die("netlink");
            wanted--;
        }
    }
    memset(request, 0, used);
    used = messages = 0;
}

static int netlink(void)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    TRY(fd);
    return fd;
}

static void add_address(int link, const char *text)
{
    struct ifaddrmsg body = { .ifa_family = AF_INET, .ifa_prefixlen = 24, .ifa_index = link };
    struct nlmsghdr *message = begin(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &body, sizeof body);
    struct in_addr address;
    inet_pton(AF_INET, text, &address);
    add(message, IFA_LOCAL, &address, sizeof address);
    add(message, IFA_ADDRESS, &address, sizeof address);
    end(message);
}

static void set_up(int link)
{
    struct ifinfomsg body = { .ifi_index = link, .ifi_flags = IFF_UP, .ifi_change = IFF_UP };
    end(begin(RTM_NEWLINK, NLM_F_ACK, &body, sizeof body));
}

/* The peer is born in the namespace: moving it there would wait for a grace period. */
static void add_veth(int host, int netns)
{
    struct ifinfomsg body = { .ifi_flags = IFF_UP, .ifi_change = IFF_UP }, peer_body = { 0 };
    struct nlmsghdr *message = begin(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &body, sizeof body);
    add(message, IFLA_IFNAME, host_link, strlen(host_link) + 1);
    struct rtattr *info = add(message, IFLA_LINKINFO, NULL, 0);
    add(message, IFLA_INFO_KIND, "veth", 4);
    struct rtattr *data = add(message, IFLA_INFO_DATA, NULL, 0);
    struct rtattr *peer = add(message, VETH_INFO_PEER, &peer_body, sizeof peer_body);
    add(message, IFLA_IFNAME, container_link, strlen(container_link) + 1);
    add(message, IFLA_NET_NS_FD, &netns, sizeof netns);
    close_nest(message, peer);
    close_nest(message, data);
    close_nest(message, info);
    end(message);
    transact(host);
}

/* The index of the host end, and through `peer` that of the container end, which the kernel chose too. */
static int index_of_host_link(int host, int *peer)
{
    char reply[8192];
    struct ifinfomsg body = { 0 };
    struct nlmsghdr *message = begin(RTM_GETLINK, 0, &body, sizeof body);
    add(message, IFLA_IFNAME, host_link, strlen(host_link) + 1);
    end(message);
    TRY(send(host, request, used, 0));
    memset(request, 0, used);
    used = messages = 0;
    TRY(recv(host, reply, sizeof reply, 0));
    message = (void *)reply;
    struct ifinfomsg *link = NLMSG_DATA(message);
    int length = IFLA_PAYLOAD(message);
    for (struct rtattr *attribute = IFLA_RTA(link); RTA_OK(attribute, length); attribute = RTA_NEXT(attribute, length))
        if (attribute->rta_type == IFLA_LINK)
            memcpy(peer, RTA_DATA(attribute), sizeof *peer);
    return link->ifi_index;
}

static void up(void)
{
    int host = netlink(), file, netns, peer = 0;
    TRY(file = open(netns_path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0));
    TRY(unshare(CLONE_NEWNET));
    TRY(mount("/proc/self/ns/net", netns_path, NULL, MS_BIND, NULL));
    TRY(netns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
    add_veth(host, netns);
    int link = index_of_host_link(host, &peer);
    add_address(link, HOST_ADDRESS);
    transact(host);

    int container = netlink();
    set_up(1);
    add_address(peer, CONTAINER_ADDRESS);
    set_up(peer);
    struct rtmsg body = { .rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT,
                          .rtm_scope = RT_SCOPE_UNIVERSE, .rtm_type = RTN_UNICAST };
    struct nlmsghdr *route = begin(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &body, sizeof body);
    struct in_addr gateway;
    inet_pton(AF_INET, HOST_ADDRESS, &gateway);
    add(route, RTA_GATEWAY, &gateway, sizeof gateway);
    end(route);
    transact(container);
}

/* Forwarding is the host's: before the namespace is entered. */
static void forward(const char *value)
{
    int file = open("/proc/sys/net/ipv4/ip_forward", O_WRONLY | O_CLOEXEC);
    TRY(file);
    TRY(write(file, value, 1));
    close(file);
}

int main(int argc, char **argv)
{
    if (argc != 3 || strlen(argv[2]) > IFNAMSIZ - 3)
        return 2;
    snprintf(netns_path, sizeof netns_path, "/run/netns/%s", argv[2]);
    snprintf(host_link, sizeof host_link, "%s.h", argv[2]);
    snprintf(container_link, sizeof container_link, "%s.c", argv[2]);
    if (strcmp(argv[1], "up") == 0) {
        forward("1");
        up();
        return 0;
    }
    if (strcmp(argv[1], "down") == 0) {
        struct ifinfomsg body = { 0 };
        struct nlmsghdr *message = begin(RTM_DELLINK, NLM_F_ACK, &body, sizeof body);
        add(message, IFLA_IFNAME, host_link, strlen(host_link) + 1);
        end(message);
        transact(netlink());
    }
    TRY(umount2(netns_path, MNT_DETACH));
    TRY(unlink(netns_path));
    return 0;
}
