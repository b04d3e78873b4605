import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/** A server whose garbage collector has something to do all the time. */
final class Server {
    private static final Map<String, String> VALUES = new ConcurrentHashMap<>();
    private static volatile byte[] garbage = {};

    public static void main(String[] arguments) throws IOException {
        Thread.ofPlatform().daemon().start(Server::litter);
        try (ServerSocket listener = new ServerSocket(7000)) {
            while (true) {
                Socket connection = listener.accept();
                Thread.ofVirtual().start(() -> serve(connection));
            }
        }
    }

    private static void litter() {
        while (true) {
            garbage = new byte[64 << 10];
            Thread.yield();
            try {
                Thread.sleep(1);
            } catch (InterruptedException e) {
                return;
            }
        }
    }

    private static void serve(Socket connection) {
        try (connection) {
            var lines = new BufferedReader(new InputStreamReader(connection.getInputStream()));
            var out = connection.getOutputStream();
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                String[] words = line.split(" ");
                String reply = words[0].equals("put") ? put(words) : VALUES.get(words[1]);
                out.write((reply + "\n").getBytes());
            }
        } catch (IOException e) {
            System.err.println(e);
        }
    }

    private static String put(String[] words) {
        VALUES.put(words[1], words[2]);
        return "ok";
    }
}
