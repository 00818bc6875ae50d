/* esp_http_client over the PC's own sockets: what it does with HTTP is real, and so is its server. HTTP only. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "esp_crt_bundle.h"
#include "esp_http_client.h"

struct esp_http_client {
    char host[64], path[256], headers[256];
    uint16_t port;
    int timeout_ms, fd, status;
    long long length, taken; /* of the body; -1: until the end */
    char ahead[2048];        /* of the body, read with the headers */
    size_t ahead_at, ahead_len;
};

esp_err_t esp_crt_bundle_attach(void *config) {
    (void)config;
    return ESP_OK;
}

esp_http_client_handle_t esp_http_client_init(const esp_http_client_config_t *config) {
    struct esp_http_client *c = calloc(1, sizeof *c);
    unsigned port = 80;
    if (sscanf(config->url, "http://%63[^:/]:%u%255s", c->host, &port, c->path) < 2 &&
        sscanf(config->url, "http://%63[^:/]%255s", c->host, c->path) < 1) {
        free(c);
        return NULL; /* https among them */
    }
    c->port = (uint16_t)port;
    c->timeout_ms = config->timeout_ms;
    c->fd = -1;
    return c;
}

esp_err_t esp_http_client_set_header(esp_http_client_handle_t c, const char *name, const char *value) {
    size_t used = strlen(c->headers);
    (void)snprintf(c->headers + used, sizeof c->headers - used, "%s: %s\r\n", name, value);
    return ESP_OK;
}

esp_err_t esp_http_client_open(esp_http_client_handle_t c, int body_len) {
    char request[700];
    if (body_len != 0) {
        return ESP_ERR_NOT_SUPPORTED;
    }
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(c->port)};
    struct timeval wait = {.tv_sec = c->timeout_ms / 1000, .tv_usec = c->timeout_ms % 1000 * 1000};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    if (inet_pton(AF_INET, c->host, &to.sin_addr) != 1 ||
        connect(c->fd, (const struct sockaddr *)&to, sizeof to) != 0) {
        return ESP_FAIL;
    }
    int n = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%s\r\n",
                     c->path[0] != '\0' ? c->path : "/", c->host, c->headers);
    return send(c->fd, request, (size_t)n, MSG_NOSIGNAL) == n ? ESP_OK : ESP_FAIL;
}

int64_t esp_http_client_fetch_headers(esp_http_client_handle_t c) {
    char text[2048];
    size_t len = 0;
    char *end = NULL;
    while (end == NULL && len < sizeof text - 1) {
        ssize_t got = recv(c->fd, text + len, sizeof text - 1 - len, 0);
        if (got <= 0) {
            return -1;
        }
        len += (size_t)got;
        text[len] = '\0';
        end = strstr(text, "\r\n\r\n");
    }
    if (end == NULL || sscanf(text, "HTTP/1.%*d %d", &c->status) != 1) {
        return -1;
    }
    end[2] = '\0';
    c->length = -1;
    for (char *line = strstr(text, "\r\n"); line != NULL; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, "content-length:", 15) == 0) {
            c->length = atoll(line + 17);
        }
    }
    c->ahead_len = len - (size_t)(end + 4 - text);
    memcpy(c->ahead, end + 4, c->ahead_len);
    return c->length >= 0 ? c->length : 0;
}

int esp_http_client_get_status_code(esp_http_client_handle_t c) {
    return c->status;
}

/* Waits for all that is asked for, as the real one. */
int esp_http_client_read(esp_http_client_handle_t c, char *out, int len) {
    if (c->length >= 0 && c->taken + len > c->length) {
        len = (int)(c->length - c->taken);
    }
    size_t want = (size_t)len, at = 0;
    while (at < want) {
        ssize_t got = (ssize_t)(c->ahead_len - c->ahead_at);
        if (got > 0) {
            got = (size_t)got < want - at ? got : (ssize_t)(want - at);
            memcpy(out + at, c->ahead + c->ahead_at, (size_t)got);
            c->ahead_at += (size_t)got;
        } else {
            got = recv(c->fd, out + at, want - at, 0);
        }
        if (got <= 0) {
            return at > 0 || got == 0 ? (int)at : -1;
        }
        at += (size_t)got;
        c->taken += got;
    }
    return (int)at;
}

esp_err_t esp_http_client_cleanup(esp_http_client_handle_t c) {
    if (c->fd >= 0) {
        close(c->fd);
    }
    free(c);
    return ESP_OK;
}
