/* A libstrophe client that connects again a second after it was disconnected, with XEP-0198 where there is a state. */

#include <stdlib.h>
#include <strophe.h>
#include <unistd.h>

static xmpp_sm_state_t *state;

static void on_connection(xmpp_conn_t *conn, xmpp_conn_event_t event, int error, xmpp_stream_error_t *stream_error,
                          void *userdata) {
    xmpp_ctx_t *ctx = userdata;
    (void)error;
    (void)stream_error;
    if (event == XMPP_CONN_CONNECT) {
        xmpp_stanza_t *presence = xmpp_presence_new(ctx);
        xmpp_send(conn, presence);
        xmpp_stanza_release(presence);
    } else {
        state = xmpp_conn_get_sm_state(conn);
        xmpp_stop(ctx);
    }
}

int main(void) {
    xmpp_initialize();
    for (;;) {
        xmpp_ctx_t *ctx = xmpp_ctx_new(NULL, xmpp_get_default_logger(XMPP_LEVEL_WARN));
        xmpp_conn_t *conn = xmpp_conn_new(ctx);
        xmpp_conn_set_flags(conn, XMPP_CONN_FLAG_TRUST_TLS);
        xmpp_conn_set_jid(conn, getenv("CLIENT_JID"));
        xmpp_conn_set_pass(conn, getenv("CLIENT_PASSWORD"));
        if (state != NULL) {
            xmpp_conn_set_sm_state(conn, state);
            state = NULL;
        }
        if (xmpp_connect_client(conn, getenv("CLIENT_HOST"), (unsigned short)atoi(getenv("CLIENT_PORT")), on_connection,
                                ctx) == XMPP_EOK)
            xmpp_run(ctx);
        xmpp_conn_release(conn);
        xmpp_ctx_free(ctx);
        sleep(1);
    }
}
