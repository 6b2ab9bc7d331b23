// A QXmpp client, as the library comes: it reconnects by itself where it thinks that it should.

#include <QCoreApplication>
#include <QXmppClient.h>
#include <QXmppConfiguration.h>

int main(int argc, char *argv[]) {
    QCoreApplication application(argc, argv);
    QXmppConfiguration configuration;
    configuration.setJid(qEnvironmentVariable("CLIENT_JID"));
    configuration.setPassword(qEnvironmentVariable("CLIENT_PASSWORD"));
    configuration.setHost(qEnvironmentVariable("CLIENT_HOST"));
    configuration.setPort(qEnvironmentVariable("CLIENT_PORT").toInt());
    configuration.setIgnoreSslErrors(true);
    QXmppClient client;
    client.connectToServer(configuration);
    return application.exec();
}
